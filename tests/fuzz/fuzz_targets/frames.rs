//! Frames in any pieces, and the messages in them.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use protocol::{
    Problem,
    frame::Frame,
    wire::{self, Announcement, Call, Kind, Response},
};

fuzz_target!(|data: &[u8]| {
    let _ = wire::decode::<Announcement>(data);
    let _ = wire::decode::<Call>(data);
    let _ = wire::decode::<Response>(data);
    let mut buffer = BytesMut::new();
    for piece in data.chunks(7) {
        buffer.extend_from_slice(piece);
        while let Ok(Some(frame)) = Frame::decode(&mut buffer, 4096) {
            assert!(frame.payload.len() <= 4096);
            // What was read is written as it was.
            let mut again = BytesMut::from(&[&frame.header()[..], &frame.payload].concat()[..]);
            assert_eq!(Frame::decode(&mut again, 4096), Ok(Some(frame.clone())));
            match frame.kind {
                Kind::Request => drop(wire::decode::<Call>(&frame.payload)),
                Kind::Response => drop(wire::decode::<Response>(&frame.payload)),
                Kind::Problem => drop(wire::decode::<Problem>(&frame.payload)),
                _ => {}
            }
        }
    }
});
