//! Our kernels as a racer: the best layout that they have, quantising the activations each time.

use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::{
    Activations, Format, Kernels, Layout, Matrix, PANEL_ROWS, Parallel, Product, Sequential, pack,
};

use crate::{Racer, Shape};

/// One matrix and its activations, ready to be multiplied.
pub struct Ours {
    kernels: Kernels,
    threads: Box<dyn Parallel>,
    shape: Shape,
    layout: Layout,
    weights: Vec<u8>,
    activations: Activations,
    out: Vec<f32>,
}

impl Ours {
    /// Packs the weights if their format has panels.
    pub fn new(shape: Shape, weights: &[u8], activations: &[f32], threads: usize) -> Ours {
        let kernels = Kernels::from_environment().unwrap_or_else(|error| panic!("{error}"));
        let Shape { format, rows, columns, tokens } = shape;
        let layout = if format.has_panels() { Layout::Panels } else { Layout::Rows };
        let weights = match layout {
            Layout::Panels => panels(format, rows, columns, weights),
            Layout::Rows => weights.to_vec(),
        };
        let mut own = Activations::with_capacity(tokens, columns);
        own.values_mut().copy_from_slice(activations);
        let threads: Box<dyn Parallel> =
            if threads == 1 { Box::new(Sequential) } else { Box::new(Pool::new(threads)) };
        let out = vec![0.0; tokens * rows];
        Ours { kernels, threads, shape, layout, weights, activations: own, out }
    }
}

fn panels(format: Format, rows: usize, columns: usize, weights: &[u8]) -> Vec<u8> {
    let row_bytes = format.row_bytes(columns).expect("the columns are whole blocks");
    let panel_bytes = pack::panel_bytes(format, columns).expect("the format has panels");
    let mut packed = vec![0; pack::packed_bytes(format, rows, columns).expect("the format has panels")];
    let strips = weights.chunks(row_bytes * PANEL_ROWS);
    for (strip, panel) in strips.zip(packed.chunks_exact_mut(panel_bytes)) {
        pack::pack_panel(format, columns, strip, panel);
    }
    packed
}

impl Racer for Ours {
    fn name(&self) -> String {
        format!("{} {:?}", self.kernels.name(), self.layout)
    }

    fn multiply(&mut self) {
        let Shape { format, rows, columns, .. } = self.shape;
        let threads = self.threads.as_ref();
        if !format.is_float() {
            self.kernels.quantize(threads, &mut self.activations);
        }
        let weights = Matrix::new(format, self.layout, rows, columns, &self.weights);
        let weights = weights.expect("the bytes were made for this shape");
        let product = Product { weights, bias: None, out: &mut self.out };
        self.kernels.matmul(threads, &self.activations, &mut [product]);
    }

    fn result(&self) -> Vec<f32> {
        self.out.clone()
    }
}
