//! HTTP by hand: clients that send whatever they like over a connection of their own.

use std::path::Path;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::wait::PATIENCE;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection.
pub struct Raw {
    stream: Box<dyn Stream>,
    /// What was read so far.
    pub text: String,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").field("text", &self.text).finish_non_exhaustive()
    }
}

impl Raw {
    /// To a TCP address.
    pub async fn tcp(address: &str) -> Self {
        Self { stream: Box::new(TcpStream::connect(address).await.expect("it listens")), text: String::new() }
    }

    /// To a Unix socket.
    pub async fn unix(path: &Path) -> Self {
        Self { stream: Box::new(UnixStream::connect(path).await.expect("it listens")), text: String::new() }
    }

    /// Sends bytes. Whether the other side takes all of them is its own affair.
    pub async fn send(&mut self, text: &str) -> &mut Self {
        let _ = timeout(PATIENCE, self.stream.write_all(text.as_bytes())).await.expect("it reads or closes");
        self
    }

    /// Reads until what came contains `end`; whether it did before the other side closed.
    ///
    /// # Panics
    /// If neither happens within [`PATIENCE`].
    pub async fn reads(&mut self, end: &str) -> bool {
        let mut part = [0; 4096];
        while !self.text.contains(end) {
            let read = timeout(PATIENCE, self.stream.read(&mut part)).await;
            match read.unwrap_or_else(|_| panic!("neither {end:?} nor the end came: {:?}", self.text)) {
                Ok(0) | Err(_) => return false,
                Ok(length) => self.text += &String::from_utf8_lossy(&part[..length]),
            }
        }
        true
    }

    /// Reads until the other side closes.
    pub async fn closes(&mut self) -> &str {
        // No answer holds a NUL.
        assert!(!self.reads("\0").await);
        &self.text
    }

    /// The status of the answer, once its head is there; 0 if the other side closed without any.
    pub async fn status(&mut self) -> u16 {
        self.reads("\r\n\r\n").await;
        let version = self.text.strip_prefix("HTTP/1.1 ").or_else(|| self.text.strip_prefix("HTTP/1.0 "));
        version.and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or_default()
    }
}
