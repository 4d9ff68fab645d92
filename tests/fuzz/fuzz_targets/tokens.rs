//! What somebody pastes as a join token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{Timestamp, Token, token::{PREFIX, SignedGrant}, wire};

fuzz_target!(|data: &[u8]| {
    let now = Timestamp::UNIX_EPOCH;
    let _ = wire::decode::<SignedGrant>(data).map(|grant| grant.open(now));
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Token::read(text, now);
        let _ = Token::read(&format!("{PREFIX}{text}"), now);
    }
});
