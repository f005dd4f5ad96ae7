//! ggml's matrix product as a racer: its CPU backend, with repacked weights wherever it repacks them.
//!
//! The buffer is chosen as llama.cpp chooses it: the first of the backend's extra buffer types that supports
//! the product with these weights, and the plain one otherwise. The declarations are those parts of `ggml.h`,
//! `ggml-backend.h` and `ggml-cpu.h` that this needs.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Mutex;

use crate::{Racer, Shape};

/// ggml's numbers for types are those of GGUF; this one is of the activations.
const TYPE_F32: c_int = 0;
const DEVICE_CPU: c_int = 0;
/// Room for the heads of a few tensors and a graph.
const CONTEXT_BYTES: usize = 4 << 20;

/// What `ggml_init` takes.
#[repr(C)]
struct Setup {
    memory_bytes: usize,
    memory: *mut c_void,
    no_data: bool,
}

type Pointer = *mut c_void;
type Listener = extern "C" fn(c_int, *const c_char, Pointer);

unsafe extern "C" {
    fn ggml_log_set(listener: Listener, data: Pointer);
    fn ggml_init(setup: Setup) -> Pointer;
    fn ggml_new_tensor_2d(context: Pointer, kind: c_int, columns: i64, rows: i64) -> Pointer;
    fn ggml_mul_mat(context: Pointer, weights: Pointer, activations: Pointer) -> Pointer;
    fn ggml_new_graph(context: Pointer) -> Pointer;
    fn ggml_build_forward_expand(graph: Pointer, tensor: Pointer);
    fn ggml_backend_cpu_init() -> Pointer;
    fn ggml_backend_cpu_set_n_threads(backend: Pointer, threads: c_int);
    fn ggml_backend_cpu_buffer_type() -> Pointer;
    fn ggml_backend_graph_compute(backend: Pointer, graph: Pointer) -> c_int;
    fn ggml_backend_dev_by_type(kind: c_int) -> Pointer;
    fn ggml_backend_dev_backend_reg(device: Pointer) -> Pointer;
    fn ggml_backend_dev_supports_op(device: Pointer, tensor: Pointer) -> bool;
    fn ggml_backend_reg_get_proc_address(registry: Pointer, name: *const c_char) -> Pointer;
    fn ggml_backend_buft_name(kind: Pointer) -> *const c_char;
    fn ggml_backend_buft_get_alloc_size(kind: Pointer, tensor: Pointer) -> usize;
    fn ggml_backend_buft_alloc_buffer(kind: Pointer, bytes: usize) -> Pointer;
    fn ggml_backend_buffer_get_base(buffer: Pointer) -> Pointer;
    fn ggml_backend_buffer_free(buffer: Pointer);
    fn ggml_backend_tensor_alloc(buffer: Pointer, tensor: Pointer, address: Pointer) -> c_int;
    fn ggml_backend_tensor_set(tensor: Pointer, data: *const c_void, offset: usize, bytes: usize);
    fn ggml_backend_tensor_get(tensor: Pointer, data: *mut c_void, offset: usize, bytes: usize);
}

/// The layout that ggml said it repacks to, such as `q4_0_8x8`; it tells that in its log alone.
static LAYOUT: Mutex<String> = Mutex::new(String::new());

extern "C" fn hear(_level: c_int, text: *const c_char, _data: Pointer) {
    // SAFETY: ggml hands a string that ends with a zero.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    if let Some((_, layout)) = text.trim_end().rsplit_once(" with ")
        && text.starts_with("repack: ")
    {
        *LAYOUT.lock().expect("nobody panics while holding it") = layout.to_owned();
    }
}

/// One matrix and its activations in a graph of one product. Nothing is freed: the process ends with it.
pub struct Ggml {
    backend: Pointer,
    graph: Pointer,
    product: Pointer,
    buffer_name: String,
    values: usize,
}

impl Ggml {
    /// Builds the graph and hands the data over.
    pub fn new(shape: Shape, weights: &[u8], activations: &[f32], threads: usize) -> Ggml {
        let Shape { format, rows, columns, tokens } = shape;
        // SAFETY: the calls keep to the order and the types of ggml's headers, and every pointer that is
        // handed on was just given by ggml. The slices have the bytes of the tensors they are copied to.
        unsafe {
            ggml_log_set(hear, ptr::null_mut());
            let setup = Setup { memory_bytes: CONTEXT_BYTES, memory: ptr::null_mut(), no_data: true };
            let context = ggml_init(setup);
            let kind = format.ggml_id() as c_int;
            let matrix = ggml_new_tensor_2d(context, kind, columns as i64, rows as i64);
            let input = ggml_new_tensor_2d(context, TYPE_F32, columns as i64, tokens as i64);

            let (buffer_kind, product) = product(context, matrix, input);
            place(matrix, buffer_kind);
            place(input, ggml_backend_cpu_buffer_type());
            place(product, ggml_backend_cpu_buffer_type());
            ggml_backend_tensor_set(matrix, weights.as_ptr().cast(), 0, weights.len());
            ggml_backend_tensor_set(input, activations.as_ptr().cast(), 0, size_of_val(activations));

            let graph = ggml_new_graph(context);
            ggml_build_forward_expand(graph, product);
            let backend = ggml_backend_cpu_init();
            ggml_backend_cpu_set_n_threads(backend, threads as c_int);
            let buffer_name = CStr::from_ptr(ggml_backend_buft_name(buffer_kind)).to_string_lossy();
            Ggml { backend, graph, product, buffer_name: buffer_name.into_owned(), values: tokens * rows }
        }
    }
}

/// Lays a tensor into a buffer of its own.
///
/// # Safety
/// The arguments are a tensor of ggml's without data and a type of buffers.
unsafe fn place(tensor: Pointer, kind: Pointer) {
    // SAFETY: the buffer has the bytes that its type asks for this tensor.
    unsafe {
        let bytes = ggml_backend_buft_get_alloc_size(kind, tensor);
        let buffer = ggml_backend_buft_alloc_buffer(kind, bytes);
        ggml_backend_tensor_alloc(buffer, tensor, ggml_backend_buffer_get_base(buffer));
    }
}

/// The best type of buffers for the weights, and the product.
///
/// # Safety
/// The arguments are a context of ggml's and two tensors in it without data.
unsafe fn product(context: Pointer, matrix: Pointer, input: Pointer) -> (Pointer, Pointer) {
    // SAFETY: as promised above; the function found by name has the type that ggml-backend.h gives it, and
    // its list ends with a null. The buffer that is tried holds nothing and is not kept.
    unsafe {
        let product = ggml_mul_mat(context, matrix, input);
        let device = ggml_backend_dev_by_type(DEVICE_CPU);
        let registry = ggml_backend_dev_backend_reg(device);
        let name = c"ggml_backend_dev_get_extra_bufts";
        let found = ggml_backend_reg_get_proc_address(registry, name.as_ptr());
        if !found.is_null() {
            let extra: extern "C" fn(Pointer) -> *const Pointer = std::mem::transmute(found);
            let mut next = extra(device);
            while !next.is_null() && !(*next).is_null() {
                let buffer = ggml_backend_buft_alloc_buffer(*next, 0);
                let fits = with_buffer(matrix, buffer, || ggml_backend_dev_supports_op(device, product));
                ggml_backend_buffer_free(buffer);
                if fits {
                    return (*next, product);
                }
                next = next.add(1);
            }
        }
        (ggml_backend_cpu_buffer_type(), product)
    }
}

/// Asks while a tensor seems to lie in a buffer.
///
/// # Safety
/// `tensor` is one of ggml's.
unsafe fn with_buffer(tensor: Pointer, buffer: Pointer, ask: impl FnOnce() -> bool) -> bool {
    // SAFETY: `ggml_tensor` begins with its type, a 32-bit number, and then, at the next pointer's place, its
    // buffer.
    unsafe {
        let field = tensor.cast::<Pointer>().add(1);
        let before = field.replace(buffer);
        let answer = ask();
        field.write(before);
        answer
    }
}

impl Racer for Ggml {
    fn name(&self) -> String {
        let layout = LAYOUT.lock().expect("nobody panics while holding it");
        format!("{} {layout}", self.buffer_name).trim_end().to_owned()
    }

    fn multiply(&mut self) {
        // SAFETY: the graph and the backend were made in `new` and live as long as the process.
        let status = unsafe { ggml_backend_graph_compute(self.backend, self.graph) };
        assert_eq!(status, 0, "ggml computes its graph");
    }

    fn result(&self) -> Vec<f32> {
        let mut values = vec![0.0_f32; self.values];
        let bytes = size_of_val(values.as_slice());
        // SAFETY: the product has `values` floats.
        unsafe { ggml_backend_tensor_get(self.product, values.as_mut_ptr().cast(), 0, bytes) };
        values
    }
}
