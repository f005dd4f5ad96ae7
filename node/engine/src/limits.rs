//! Every bound of the engine, with unit and reason.
//!
//! What a file, a prompt or a request can ask for is checked against these before anything is allocated.
