//! Speed of the kernels alone: for each set and format what decoding, batches and prompts reach on this chip.
//!
//! It exists to choose tiles and prefetch distances by measurement, without a model. Arguments narrow it
//! down: `speed [SET,...] [FORMAT,...] [decode,batch,prefill,attention]`, each `all` by default. Every figure
//! is the best of several runs, since neighbours on a shared machine only ever slow one down; compare those
//! of one call only.

use std::hint::black_box;
use std::time::Instant;

use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::{
    Activations, AttentionJob, AttentionQuery, Format, KV_PAGE_TOKENS, Kernels, KvKind, KvShape, Layout,
    Matrix, PANEL_ROWS, Parallel, Product, pack,
};

/// Weight bytes of the decoding matrix: several times what any cache holds.
const DECODE_WEIGHT_BYTES: usize = 192 << 20;
/// Rows and columns of the matrix for prompts, and the tokens of one.
const PREFILL_SHAPES: [[usize; 2]; 2] = [[2048, 2048], [2048, 8192]];
const PREFILL_TOKENS: usize = 512;
/// Sessions that decode together.
const BATCH_TOKENS: usize = 8;
const RUNS: usize = 15;

/// Bytes that look random and decode to small numbers: the high byte of a half is never large.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x2f
    };
    (0..length).map(|_| byte()).collect()
}

fn activations(kernels: Kernels, pool: &Pool, tokens: usize, columns: usize) -> Activations {
    let mut x = Activations::with_capacity(tokens, columns);
    for (index, value) in x.values_mut().iter_mut().enumerate() {
        *value = (index * 7919 % 1009) as f32 / 1009.0 - 0.5;
    }
    kernels.quantize(pool, &mut x);
    x
}

/// Least seconds of a run.
fn seconds(mut run: impl FnMut()) -> f64 {
    run();
    let once = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..RUNS).map(once).fold(f64::INFINITY, f64::min)
}

/// Layout and bytes of a matrix of about `bytes` bytes.
fn form(format: Format, columns: usize, bytes: usize) -> (Layout, usize) {
    match pack::panel_bytes(format, columns) {
        Some(panel) => (Layout::Panels, bytes / panel * PANEL_ROWS),
        None => {
            (Layout::Rows, bytes / format.row_bytes(columns).expect("whole blocks") / PANEL_ROWS * PANEL_ROWS)
        }
    }
}

fn product_seconds(kernels: Kernels, pool: &Pool, weights: Matrix<'_>, tokens: usize) -> f64 {
    let x = activations(kernels, pool, tokens, weights.columns());
    let mut out = vec![0.0; tokens * weights.rows()];
    seconds(|| {
        kernels.matmul(pool, &x, &mut [Product { weights, bias: None, out: &mut out }]);
        black_box(&out);
    })
}

fn products(kernels: Kernels, format: Format, wanted: &impl Fn(&str) -> bool, bytes: &[u8]) {
    let name = format!("{:9} {:7}", kernels.name(), format.name());
    let columns = 2048;
    let (layout, rows) = form(format, columns, DECODE_WEIGHT_BYTES);
    let length = if layout == Layout::Panels {
        pack::packed_bytes(format, rows, columns)
    } else {
        format.row_bytes(columns).map(|row| row * rows)
    };
    let length = length.expect("the shape is a matrix");
    let weights = Matrix::new(format, layout, rows, columns, &bytes[..length]).expect("it fits");
    for (what, tokens) in [("decode", 1), ("batch", BATCH_TOKENS)] {
        for threads in [1, 2] {
            if wanted(what) {
                let seconds = product_seconds(kernels, &Pool::new(threads), weights, tokens);
                let rate = length as f64 / seconds / 1e9;
                println!("{name} {what:7} {tokens:3} tokens, {threads} threads: {rate:7.1} GB/s");
            }
        }
    }
    if wanted("prefill") {
        for [rows, columns] in PREFILL_SHAPES {
            let length = match layout {
                Layout::Panels => pack::packed_bytes(format, rows, columns),
                Layout::Rows => format.row_bytes(columns).map(|row| row * rows),
            };
            let bytes = &bytes[..length.expect("the shape is a matrix")];
            let weights = Matrix::new(format, layout, rows, columns, bytes).expect("it fits");
            let seconds = product_seconds(kernels, &Pool::new(1), weights, PREFILL_TOKENS);
            let rate = (2 * rows * columns * PREFILL_TOKENS) as f64 / seconds / 1e9;
            println!("{name} prefill {rows} x {columns}, 1 thread: {rate:7.1} Gop/s");
        }
    }
}

/// Attention of the 1B shape: one query after 4096 tokens, and a prompt of 512.
fn attention(kernels: Kernels, kind: KvKind) {
    let shape = KvShape { kind, kv_heads: 8, head_width: 64 };
    let (heads, width) = (32, 32 * 64);
    // Each block of a model has its own pages, so that they come from memory.
    let blocks = 16;
    let page_bytes = shape.page_bytes();
    let pages_each = 4096 / KV_PAGE_TOKENS;
    let bytes = noise(page_bytes * pages_each * blocks);
    let pages: Vec<&[u8]> = bytes.chunks_exact(page_bytes).collect();
    let rows: Vec<f32> =
        (0..PREFILL_TOKENS * width).map(|k| (k * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
    let mut out = vec![0.0; rows.len()];
    for threads in [1, 2] {
        let pool = Pool::new(threads);
        let name = format!("{:9} {:7} attention", kernels.name(), kind.name());
        let decode = seconds(|| {
            for pages in pages.chunks_exact(pages_each) {
                let queries = [AttentionQuery { query: &rows[..width], pages, first: 0, end: 4096 }];
                let job = AttentionJob { shape, heads, scale: 0.125, queries: &queries };
                kernels.attention(&pool, &job, &mut out[..width]);
            }
        });
        let rate = bytes.len() as f64 / decode / 1e9;
        println!("{name} decode after 4096, {threads} threads: {rate:7.1} GB/s of cache");
        let queries: Vec<AttentionQuery<'_>> = rows
            .chunks_exact(width)
            .enumerate()
            .map(|(index, query)| AttentionQuery { query, pages: &pages, first: 0, end: index + 1 })
            .collect();
        let job = AttentionJob { shape, heads, scale: 0.125, queries: &queries };
        let prefill = seconds(|| kernels.attention(&pool, &job, &mut out));
        let work = (4 * width * PREFILL_TOKENS * PREFILL_TOKENS / 2) as f64;
        println!(
            "{name} prefill of 512, {threads} threads: {:7.1} Gop/s, {:.2} ms",
            work / prefill / 1e9,
            prefill * 1e3
        );
    }
}

/// A plain read of the same bytes: the best of several, in bytes a second.
fn sweep(bytes: &[u8], threads: usize) -> f64 {
    let pool = Pool::new(threads);
    let part = bytes.len() / 256;
    let words = bytes.as_chunks::<8>().0;
    let once = || {
        let start = Instant::now();
        pool.run(256, &|task| {
            let mut sums = [0u64; 32];
            for words in words[task * part / 8..][..part / 8].chunks_exact(32) {
                for (sum, word) in sums.iter_mut().zip(words) {
                    *sum = sum.wrapping_add(u64::from_le_bytes(*word));
                }
            }
            black_box(sums);
        });
        start.elapsed().as_secs_f64()
    };
    let best = (0..RUNS).map(|_| once()).fold(f64::INFINITY, f64::min);
    bytes.len() as f64 / best
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |index: usize, name: &str| {
        let list = arguments.get(index).map_or("all", String::as_str);
        list == "all" || list.split(',').any(|part| part == name)
    };
    let what = |name: &str| chosen(2, name);
    let bytes = noise(DECODE_WEIGHT_BYTES);
    for threads in [1, 2] {
        println!("plain read, {threads} threads: {:.1} GB/s", sweep(&bytes, threads) / 1e9);
    }
    for kernels in
        Kernels::available().filter(|kernels| chosen(0, kernels.name()) && kernels.name() != "portable")
    {
        for format in Format::all().filter(|format| chosen(1, format.name())) {
            products(kernels, format, &what, &bytes);
        }
        if what("attention") {
            for kind in [KvKind::F16, KvKind::Q8_0] {
                attention(kernels, kind);
            }
        }
    }
}
