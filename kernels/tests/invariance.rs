//! What must not change a bit: the layout, the batch, the number of threads, the chunk of a prefill.

mod support;

use kwaainet_kernels::limits::HEAD_WIDTH_MAX;
use kwaainet_kernels::pool::Pool;
use kwaainet_kernels::{
    Activations, AttentionJob, AttentionQuery, Format, Kernels, KvKind, KvShape, Layout, Matrix, Parallel,
    Product, Sequential,
};
use support::{Numbers, activations, assert_same_bits, packed, product, weights};

fn panel_formats() -> impl Iterator<Item = Format> {
    Format::all().filter(|format| format.has_panels())
}

#[test]
fn panels_give_the_same_bits_as_rows() {
    for format in panel_formats() {
        for (rows, tokens) in [(1, 1), (8, 2), (19, 3), (40, 66)] {
            let columns = 2 * format.block_columns();
            let mut numbers = Numbers::new(rows as u64);
            let bytes = weights(format, rows, columns, 0.1, &mut numbers);
            let panels = packed(format, rows, columns, &bytes);
            let x = activations(tokens, columns, &numbers.row(tokens * columns, 1.0));
            let of = |layout, bytes| Matrix::new(format, layout, rows, columns, bytes).unwrap();
            let wanted = product(Kernels::PORTABLE, &x, of(Layout::Rows, &bytes), None);
            let found = product(Kernels::PORTABLE, &x, of(Layout::Panels, &panels), None);
            assert_same_bits(&found, &wanted, &format.name());
        }
    }
}

#[test]
fn a_row_decoded_from_panels_has_the_bits_of_the_row_in_the_file() {
    for format in panel_formats() {
        let (rows, columns) = (19, 3 * format.block_columns());
        let bytes = weights(format, rows, columns, 0.1, &mut Numbers::new(7));
        let panels = packed(format, rows, columns, &bytes);
        let in_rows = Matrix::new(format, Layout::Rows, rows, columns, &bytes).unwrap();
        let in_panels = Matrix::new(format, Layout::Panels, rows, columns, &panels).unwrap();
        for row in 0..rows {
            let (mut found, mut wanted) = (vec![0.0; columns], vec![0.0; columns]);
            in_panels.decode_row(row, &mut found);
            in_rows.decode_row(row, &mut wanted);
            assert_same_bits(&found, &wanted, &format.name());
        }
    }
}

#[test]
fn the_last_panel_is_filled_with_zero_bytes() {
    let bytes = weights(Format::Q8_0, 9, 32, 0.1, &mut Numbers::new(1));
    let panels = packed(Format::Q8_0, 9, 32, &bytes);
    let last = &panels[272..];
    // Row 0 has bytes 0..2 of the scales and the first four of every vector; the rest belongs to rows that
    // are not.
    assert!(last[2..16].iter().all(|byte| *byte == 0));
    assert!(last[16..].chunks(32).all(|vector| vector[4..].iter().all(|byte| *byte == 0)));
}

#[test]
fn tokens_one_at_a_time_give_the_same_bits_as_one_batch() {
    for kernels in Kernels::available() {
        for format in Format::all() {
            let (rows, columns, tokens) = (21, 256, 70);
            let mut numbers = Numbers::new(3);
            let bytes = weights(format, rows, columns, 0.1, &mut numbers);
            let matrix = Matrix::new(format, Layout::Rows, rows, columns, &bytes).unwrap();
            let values = numbers.row(tokens * columns, 1.0);
            let batch = product(kernels, &activations(tokens, columns, &values), matrix, None);
            for (token, wanted) in batch.chunks(rows).enumerate() {
                let x = activations(1, columns, &values[token * columns..][..columns]);
                assert_same_bits(&product(kernels, &x, matrix, None), wanted, &format.name());
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (columns, tokens) = (1024, 20);
    let mut numbers = Numbers::new(11);
    let shapes = [(Format::Q4_0, 600), (Format::F16, 33), (Format::Q8_0, 1), (Format::Q3K, 257)];
    let stored: Vec<Vec<u8>> =
        shapes.iter().map(|(format, rows)| weights(*format, *rows, columns, 0.1, &mut numbers)).collect();
    let values = numbers.row(tokens * columns, 1.0);
    let run = |pool: &dyn Parallel| -> Vec<Vec<f32>> {
        let mut x = Activations::with_capacity(tokens, columns);
        x.values_mut().copy_from_slice(&values);
        Kernels::detect().quantize(pool, &mut x);
        let mut outs: Vec<Vec<f32>> = shapes.iter().map(|(_, rows)| vec![0.0; tokens * rows]).collect();
        let each = shapes.iter().zip(&stored).zip(&mut outs);
        let mut products: Vec<Product<'_>> = each
            .map(|(((format, rows), bytes), out)| Product {
                weights: Matrix::new(*format, Layout::Rows, *rows, columns, bytes).unwrap(),
                bias: None,
                out,
            })
            .collect();
        Kernels::detect().matmul(pool, &x, &mut products);
        outs
    };
    let wanted = run(&Sequential);
    for threads in [1, 2, 3, 7] {
        for (found, wanted) in run(&Pool::new(threads)).iter().zip(&wanted) {
            assert_same_bits(found, wanted, &threads);
        }
    }
}

#[test]
fn attention_on_any_number_of_threads_gives_the_same_bits() {
    let shape = KvShape { kind: KvKind::F16, kv_heads: 3, head_width: 32 };
    let mut numbers = Numbers::new(2);
    let mut pages = vec![vec![0; shape.page_bytes()]; 3];
    for token in 0..96 {
        let (keys, values) = (numbers.row(96, 1.0), numbers.row(96, 1.0));
        Kernels::PORTABLE.kv_store(&shape, &mut pages[token / 32], token % 32, &keys, &values);
    }
    let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
    let rows = numbers.row(50 * 6 * 32, 1.0);
    let queries: Vec<AttentionQuery<'_>> = rows
        .chunks(6 * 32)
        .enumerate()
        .map(|(index, query)| AttentionQuery { query, pages: &pages, first: index / 2, end: 40 + index })
        .collect();
    let job = AttentionJob { shape, heads: 6, scale: 0.2, queries: &queries };
    let run = |pool: &dyn Parallel| {
        let mut out = vec![0.0; rows.len()];
        Kernels::detect().attention(pool, &job, &mut out);
        out
    };
    let wanted = run(&Sequential);
    for threads in [2, 5] {
        assert_same_bits(&run(&Pool::new(threads)), &wanted, &threads);
    }
}

#[test]
fn reused_activations_forget_the_shape_and_codes_they_had() {
    let mut x = activations(4, 64, &Numbers::new(1).row(256, 1.0));
    x.reset(1, 32);
    assert_eq!((x.tokens(), x.columns(), x.values().len()), (1, 32, 32));
    assert!(x.quantized().is_none());
    x.values_mut().fill(2.0);
    Kernels::PORTABLE.quantize(&Sequential, &mut x);
    let (codes, scales, sums) = x.quantized().unwrap();
    assert_eq!((codes, sums), ([127; 32].as_slice(), [[127 * 16; 2]].as_slice()));
    assert_eq!(scales, [2.0 / 127.0]);
}

#[test]
#[should_panic(expected = "Q4_0 needs quantised activations")]
fn quantised_weights_refuse_activations_without_codes() {
    let x = Activations::with_capacity(1, 32);
    let matrix = Matrix::new(Format::Q4_0, Layout::Rows, 1, 32, &[0; 18]).unwrap();
    product(Kernels::PORTABLE, &x, matrix, None);
}

#[test]
fn a_matrix_of_the_wrong_length_is_refused_with_both_numbers() {
    let of = |format, layout, rows, columns, bytes: &[u8]| {
        Matrix::new(format, layout, rows, columns, bytes)
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default()
    };
    let short = of(Format::Q4_0, Layout::Rows, 2, 32, &[0; 35]);
    assert_eq!(short, "a Q4_0 matrix of 2 x 32 in Rows takes 36 bytes, found 35");
    let broken = of(Format::Q4K, Layout::Rows, 1, 32, &[0; 18]);
    assert_eq!(broken, "a Q4_K matrix can not be 1 x 32: rows are whole blocks of 256 columns");
    assert!(of(Format::F16, Layout::Panels, 8, 32, &[]).contains("no panels"));
    assert!(!of(Format::F32, Layout::Rows, usize::MAX, usize::MAX, &[]).is_empty());
    assert!(!of(Format::Q8_0, Layout::Panels, usize::MAX, 1 << 60, &[]).is_empty());
}

#[test]
fn an_unknown_kernel_set_is_refused_with_those_that_there_are() {
    let error = Kernels::named("abacus").unwrap_err().to_string();
    assert!(error.contains("abacus") && error.contains(Kernels::detect().name()), "{error}");
    for kernels in Kernels::available() {
        assert_eq!(Kernels::named(kernels.name()), Ok(kernels));
    }
}

#[test]
fn heads_up_to_the_limit_are_attended_to_and_wider_ones_refused() {
    for kind in [KvKind::F32, KvKind::F16, KvKind::Q8_0] {
        assert_eq!(kind.head_bytes(HEAD_WIDTH_MAX + 32), None);
        let shape = KvShape { kind, kv_heads: 1, head_width: HEAD_WIDTH_MAX };
        let mut page = vec![0; shape.page_bytes()];
        let row = vec![0.5; HEAD_WIDTH_MAX];
        Kernels::detect().kv_store(&shape, &mut page, 0, &row, &row);
        let queries = [AttentionQuery { query: &row, pages: &[&page], first: 0, end: 1 }];
        let job = AttentionJob { shape, heads: 1, scale: 0.1, queries: &queries };
        let mut out = vec![0.0; HEAD_WIDTH_MAX];
        Kernels::detect().attention(&Sequential, &job, &mut out);
        assert!(out.iter().all(|out| (out - 0.5).abs() < 1e-3), "{kind:?}");
    }
    assert_eq!(KvKind::F16.head_bytes(HEAD_WIDTH_MAX + 1), None);
    assert_eq!(KvKind::Q8_0.head_bytes(80), None);
}
