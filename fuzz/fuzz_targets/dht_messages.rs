//! Any bytes as each message of the DHT: what is read is written again to bytes that read the same.

#![no_main]

use kwaainet_fabric::hivemind::messages::*;
use libfuzzer_sys::fuzz_target;

macro_rules! replay {
    ($bytes:expr, $($message:ident),*) => {
        $(
            if let Ok(message) = $message::decode($bytes) {
                assert_eq!($message::decode(&message.encode()), Ok(message));
            }
        )*
    };
}

fuzz_target!(|bytes: &[u8]| {
    replay!(bytes, PingRequest, PingResponse, StoreRequest, StoreResponse, FindRequest, FindResponse);
    replay!(bytes, CheckRequest);
    let _ = decode_uid(bytes);
});
