//! A slow and lossy cable: two TAP devices, and tasks that carry frames between them, late and not all of them.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tun_rs::{AsyncDevice, DeviceBuilder, Layer};

/// Frames on their way in one direction: what 50 ms hold at 100 MB/s.
const ON_THE_WAY: usize = 4_096;
/// The largest frame of an Ethernet with headers to spare.
const MAX_FRAME: usize = 2_048;

/// What a cable does to the frames in it, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Wire {
    /// How long a frame takes.
    pub delay: Duration,
    /// One frame in so many is lost.
    pub loses_one_in: u32,
}

/// A cable between two interfaces. It is cut when this is dropped.
#[derive(Debug)]
pub(crate) struct Cable {
    _carrying: JoinSet<()>,
}

impl Wire {
    /// Lays a cable: makes both interfaces, in the namespace that this process is in. Needs a runtime.
    pub(crate) fn lay(self, one: &str, other: &str) -> Cable {
        let tap = |name: &str| {
            let built = DeviceBuilder::new().name(name).layer(Layer::L2).build_async();
            Arc::new(built.unwrap_or_else(|error| panic!("no TAP device {name}: {error}")))
        };
        let (one, other) = (tap(one), tap(other));
        let mut carrying = JoinSet::new();
        for (from, to) in [(Arc::clone(&one), Arc::clone(&other)), (other, one)] {
            let (sender, receiver) = mpsc::channel(ON_THE_WAY);
            carrying.spawn(self.take(from, sender));
            carrying.spawn(deliver(to, receiver));
        }
        Cable { _carrying: carrying }
    }

    async fn take(self, from: Arc<AsyncDevice>, way: mpsc::Sender<(Instant, Vec<u8>)>) {
        // Which frames are lost is the same in each run, as far as their order is.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        loop {
            let mut frame = vec![0; MAX_FRAME];
            // Fails while the interface is down.
            let Ok(length) = from.recv(&mut frame).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            frame.truncate(length);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if self.loses_one_in > 0 && (random >> 33).is_multiple_of(self.loses_one_in.into()) {
                continue;
            }
            // A full cable loses frames, as a router's queue does.
            if let Err(mpsc::error::TrySendError::Closed(_)) = way.try_send((Instant::now() + self.delay, frame)) {
                return;
            }
        }
    }
}

async fn deliver(to: Arc<AsyncDevice>, mut way: mpsc::Receiver<(Instant, Vec<u8>)>) {
    while let Some((due, frame)) = way.recv().await {
        sleep_until(due).await;
        // Lost where nobody listens.
        let _ = to.send(&frame).await;
    }
}
