//! Quantised arithmetic of transformer blocks, for each kind of chip.
//!
//! It exists so that the rest of the house can multiply, norm, rotate and attend without knowing which chip it runs on:
//! every kernel set gives the same bits as the portable one.
