//! candle's quantised product as a racer.
//!
//! It takes its threads from rayon: one for each core, or as many as `RAYON_NUM_THREADS` says.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Module, Tensor};
use kwaainet_kernels::Format;

use crate::{Racer, Shape};

/// One matrix and its activations, ready to be multiplied.
pub struct Candle {
    weights: QMatMul,
    activations: Tensor,
    out: Option<Tensor>,
}

impl Candle {
    /// `None` for formats that candle has no product for.
    pub fn new(shape: Shape, weights: &[u8], activations: &[f32]) -> Option<Candle> {
        let kind = match shape.format {
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
            _ => return None,
        };
        let storage = QStorage::from_data(Cow::Borrowed(weights), &Device::Cpu, kind).ok()?;
        let weights = QTensor::new(storage, (shape.rows, shape.columns)).ok()?;
        let activations =
            Tensor::from_slice(activations, (shape.tokens, shape.columns), &Device::Cpu).ok()?;
        Some(Candle { weights: QMatMul::from_qtensor(weights).ok()?, activations, out: None })
    }
}

impl Racer for Candle {
    fn name(&self) -> String {
        "QMatMul".into()
    }

    fn multiply(&mut self) {
        self.out = Some(self.weights.forward(&self.activations).expect("the shapes fit"));
    }

    fn result(&self) -> Vec<f32> {
        let out = self.out.as_ref().expect("it was multiplied");
        out.flatten_all().and_then(|flat| flat.to_vec1()).expect("these are floats")
    }
}
