//! Broken and hostile GGUFs get a sentence with the field and the offset, and never a panic.

mod common;
mod support;

use common::models;
use kwaainet_engine::Error;
use kwaainet_engine::files::{ModelFiles, Role, gguf};
use kwaainet_engine::limits::{GGUF_ARRAY_DEPTH_MAX, TENSORS_MAX};
use support::{Numbers, disturb, put};

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A small valid GGUF with two tensors and metadata of several types.
fn small_gguf() -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(5u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "general.alignment");
    out.extend(4u32.to_le_bytes());
    out.extend(32u32.to_le_bytes());
    text(&mut out, "is.flag");
    out.extend(7u32.to_le_bytes());
    out.push(1);
    text(&mut out, "some.words");
    out.extend(9u32.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "one");
    text(&mut out, "two");
    text(&mut out, "some.nested");
    out.extend(9u32.to_le_bytes());
    out.extend(9u32.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(5u32.to_le_bytes());
    out.extend(3u64.to_le_bytes());
    for number in [-1i32, 0, 7] {
        out.extend(number.to_le_bytes());
    }
    text(&mut out, "first");
    out.extend(2u32.to_le_bytes());
    out.extend(32u64.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    out.extend(0u32.to_le_bytes()); // F32
    out.extend(0u64.to_le_bytes());
    text(&mut out, "second");
    out.extend(1u32.to_le_bytes());
    out.extend(64u64.to_le_bytes());
    out.extend(8u32.to_le_bytes()); // Q8_0
    out.extend(256u64.to_le_bytes());
    out.resize(out.len().next_multiple_of(32) + 256 + 68, 0);
    out
}

/// The place right behind the first `word`.
fn behind(bytes: &[u8], word: &str) -> usize {
    let place = bytes.windows(word.len()).position(|window| window == word.as_bytes());
    place.expect("the file holds the word") + word.len()
}

#[test]
fn the_small_gguf_is_read_as_it_was_written() {
    let bytes = small_gguf();
    let header = gguf::parse_header("small", &bytes).unwrap();
    assert_eq!((header.version, header.alignment), (3, 32));
    assert_eq!(header.string("general.architecture").unwrap(), Some("llama"));
    assert_eq!(header.boolean("is.flag").unwrap(), Some(true));
    assert_eq!(header.strings("some.words").unwrap(), Some(&["one", "two"][..]));
    let Some(gguf::Value::Array(gguf::Array::Arrays(nested))) = header.get("some.nested") else {
        panic!("some.nested is an array of arrays")
    };
    let gguf::Array::Numbers(numbers) = &nested[0] else { panic!("the inner array holds numbers") };
    let numbers: Vec<_> = numbers.iter().map(|number| number.as_signed().unwrap()).collect();
    assert_eq!(numbers, [-1, 0, 7]);
    let [first, second] = &header.tensors[..] else { panic!("there are two tensors") };
    assert_eq!((first.name, first.bytes, second.name, second.bytes), ("first", 256, "second", 68));
    assert_eq!(second.offset, first.offset + 256);
    assert_eq!((second.offset + second.bytes) as usize, bytes.len());
}

#[test]
fn a_missing_key_is_nothing_and_a_wrong_type_is_an_error_with_its_offset() {
    let bytes = small_gguf();
    let header = gguf::parse_header("small", &bytes).unwrap();
    assert_eq!(header.string("no.such.key").unwrap(), None);
    let at = behind(&bytes, "is.flag") + 4;
    let error = header.string("is.flag").unwrap_err();
    assert!(matches!(error, Error::Broken { offset: Some(offset), .. } if offset == at as u64), "{error}");
    assert!(header.unsigned("general.architecture").is_err());
    assert!(header.floats("some.words").is_err());
}

/// What is broken, how, the place that the error should name, and a part of its sentence.
type Break = (&'static str, fn(&mut Vec<u8>) -> usize, &'static str);

const GGUF_BREAKS: &[Break] = &[
    (
        "magic",
        |b| {
            b[0] = b'g';
            0
        },
        "the magic should be \"GGUF\", but is gGUF",
    ),
    (
        "tensor count over the limit",
        |b| {
            put(b, 8, &(TENSORS_MAX + 1).to_le_bytes());
            8
        },
        "the limit is 65536",
    ),
    (
        "tensor count over the file",
        |b| {
            put(b, 8, &60_000u64.to_le_bytes());
            8
        },
        "takes at least 32 bytes each",
    ),
    (
        "metadata count",
        |b| {
            put(b, 16, &u64::MAX.to_le_bytes());
            16
        },
        "the count of metadata is 18446744073709551615",
    ),
    (
        "key length",
        |b| {
            put(b, 24, &70_000u64.to_le_bytes());
            24
        },
        "the key of metadata 0 is 70000 bytes long",
    ),
    (
        "key not UTF-8",
        |b| {
            b[33] = 0xff;
            33
        },
        "the key of metadata 0 is not valid UTF-8",
    ),
    (
        "key twice",
        |b| {
            // A key of the same length as another: is.flag becomes one that is there already.
            let at = behind(b, "general.alignment") + 8;
            let flag = b.split_off(at);
            text(b, "general.alignment");
            b.extend(&flag[15..]);
            at
        },
        "the metadata key \"general.alignment\" comes twice",
    ),
    (
        "value type",
        |b| {
            let at = behind(b, "is.flag");
            b[at] = 13;
            at
        },
        "is.flag has the unknown value type 13",
    ),
    (
        "boolean",
        |b| {
            let at = behind(b, "is.flag") + 4;
            b[at] = 2;
            at
        },
        "the boolean 2, which is not 0 or 1",
    ),
    (
        "string length",
        |b| {
            let at = behind(b, "general.architecture") + 4;
            put(b, at, &u64::MAX.to_le_bytes());
            at
        },
        "the value of general.architecture is 18446744073709551615 bytes long",
    ),
    (
        "string over the end",
        |b| {
            let at = behind(b, "general.architecture") + 4;
            put(b, at, &100_000u64.to_le_bytes());
            at + 8
        },
        "needs 100000 bytes, but only",
    ),
    (
        "alignment",
        |b| {
            let at = behind(b, "general.alignment") + 4;
            put(b, at, &48u32.to_le_bytes());
            at
        },
        "general.alignment is 48, but has to be a power of two",
    ),
    (
        "alignment 0",
        |b| {
            let at = behind(b, "general.alignment") + 4;
            put(b, at, &0u32.to_le_bytes());
            at
        },
        "general.alignment is 0, but has to be a power of two",
    ),
    (
        "array element type",
        |b| {
            let at = behind(b, "some.words") + 4;
            b[at] = 99;
            at
        },
        "unknown value type 99",
    ),
    (
        "array length",
        |b| {
            let at = behind(b, "some.words") + 8;
            put(b, at, &1_000_000u64.to_le_bytes());
            at
        },
        "the length of some.words is 1000000, which takes at least 8 bytes each",
    ),
    (
        "array over the limit",
        |b| {
            let at = behind(b, "some.words") + 8;
            put(b, at, &(1u64 << 60).to_le_bytes());
            at
        },
        "the length of some.words is 1152921504606846976; the limit is",
    ),
    (
        "array element not UTF-8",
        |b| {
            let at = behind(b, "one");
            b[at - 1] = 0xc0;
            at - 1
        },
        "element 0 of some.words",
    ),
    (
        "tensor name length",
        |b| {
            let at = behind(b, "first") - 13;
            put(b, at, &65u64.to_le_bytes());
            at
        },
        "the name of tensor 0 is 65 bytes long; the limit is 64",
    ),
    (
        "no dimensions",
        |b| {
            let at = behind(b, "first");
            b[at] = 0;
            at
        },
        "first has 0 dimensions",
    ),
    (
        "five dimensions",
        |b| {
            let at = behind(b, "first");
            b[at] = 5;
            at
        },
        "first has 5 dimensions; 1 to 4",
    ),
    (
        "zero dimension",
        |b| {
            let at = behind(b, "first") + 4;
            b[at] = 0;
            at
        },
        "dimension 0 of first is 0",
    ),
    (
        "product overflows",
        |b| {
            let at = behind(b, "first") + 4;
            put(b, at, &(1u64 << 40).to_le_bytes());
            put(b, at + 8, &(1u64 << 40).to_le_bytes());
            at
        },
        "the product has to fit in 64 bits",
    ),
    (
        "partial block",
        |b| {
            let at = behind(b, "second") + 4;
            b[at] = 48;
            at
        },
        "a multiple of 32 for type Q8_0",
    ),
    (
        "unknown tensor type",
        |b| {
            let at = behind(b, "second") + 12;
            put(b, at, &77u32.to_le_bytes());
            at
        },
        "second has the unknown tensor type 77",
    ),
    (
        "misaligned",
        |b| {
            let at = behind(b, "second") + 16;
            b[at] = 8;
            at
        },
        "no multiple of the alignment 32",
    ),
    (
        "outside the file",
        |b| {
            let at = behind(b, "second") + 16;
            put(b, at, &(1u64 << 20).to_le_bytes());
            behind(b, "second") - 14
        },
        "the tensor second has 68 bytes at offset 1048576 of the data",
    ),
    (
        "offset overflows",
        |b| {
            let at = behind(b, "second") + 16;
            put(b, at, &(u64::MAX - 31).to_le_bytes());
            behind(b, "second") - 14
        },
        "the tensor second has 68 bytes at offset 18446744073709551584",
    ),
    (
        "overlap",
        |b| {
            let at = behind(b, "second") + 16;
            put(b, at, &224u64.to_le_bytes());
            behind(b, "second") - 14
        },
        "the tensor second overlaps first",
    ),
    (
        "cut short",
        |b| {
            b.pop();
            behind(b, "second") - 14
        },
        "it may be cut short",
    ),
];

#[test]
fn every_broken_field_of_a_gguf_is_named_with_its_offset() {
    for (name, break_it, sentence) in GGUF_BREAKS {
        let mut bytes = small_gguf();
        let place = break_it(&mut bytes) as u64;
        match gguf::parse_header("small", &bytes) {
            Err(Error::Broken { file, what, offset: Some(offset) }) => {
                assert_eq!((file.as_str(), offset), ("small", place), "{name}: {what}");
                assert!(what.contains(sentence), "{name}: {what}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let mut bytes = small_gguf();
    let at = behind(&bytes, "second");
    put(&mut bytes, at - 14, &5u64.to_le_bytes());
    bytes.remove(at - 1);
    put(&mut bytes, at - 6, b"first");
    bytes.resize(small_gguf().len(), 0);
    let error = gguf::parse_header("small", &bytes).unwrap_err().to_string();
    assert!(error.contains("the tensor \"first\" comes twice"), "{error}");
}

#[test]
fn what_is_well_formed_but_foreign_is_unsupported_by_name() {
    type Change = fn(&mut Vec<u8>);
    let breaks: [(Change, &str); 5] = [
        (|b| put(b, 4, &1u32.to_le_bytes()), "GGUF version 1"),
        (|b| put(b, 4, &4u32.to_le_bytes()), "GGUF version 4"),
        (|b| put(b, 4, &3u32.to_be_bytes()), "big-endian"),
        (
            |b| {
                let at = behind(b, "second") + 12;
                b[at] = 16
            },
            "as IQ2_XXS",
        ),
        (
            |b| {
                let at = behind(b, "second") + 12;
                b[at] = 39
            },
            "as MXFP4",
        ),
    ];
    for (break_it, sentence) in breaks {
        let mut bytes = small_gguf();
        break_it(&mut bytes);
        match gguf::parse_header("small", &bytes) {
            Err(Error::Unsupported { what }) => assert!(what.contains(sentence), "{what}"),
            other => panic!("{sentence}: {other:?}"),
        }
    }
}

#[test]
fn version_2_is_read_like_version_3() {
    let mut bytes = small_gguf();
    bytes[4] = 2;
    assert_eq!(gguf::parse_header("small", &bytes).unwrap().version, 2);
}

#[test]
fn arrays_nest_as_deep_as_the_limit_and_no_deeper() {
    let nested = |depth: usize| {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(0u64.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        text(&mut out, "deep");
        for _ in 0..depth {
            out.extend(9u32.to_le_bytes()); // the type of what follows: an array, after an array's own type
            if out.len() > 40 {
                out.extend(1u64.to_le_bytes());
            }
        }
        out.extend(4u32.to_le_bytes());
        out.extend(1u64.to_le_bytes());
        out.extend(5u32.to_le_bytes());
        out
    };
    gguf::parse_header("deep", &nested(GGUF_ARRAY_DEPTH_MAX)).unwrap();
    let error = gguf::parse_header("deep", &nested(GGUF_ARRAY_DEPTH_MAX + 1)).unwrap_err().to_string();
    assert!(error.contains("nests arrays deeper than the limit of 4"), "{error}");
}

#[test]
fn a_gguf_cut_short_at_any_byte_is_refused() {
    let bytes = small_gguf();
    for length in 0..bytes.len() {
        assert!(gguf::parse_header("cut", &bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn a_real_gguf_cut_short_at_any_byte_of_its_header_is_refused() {
    let Some(models) = models("a_real_gguf_cut_short_at_any_byte_of_its_header_is_refused") else { return };
    let bytes = std::fs::read(models.join("tiny/qwen2/qwen2-q4_0.gguf")).unwrap();
    let header = gguf::parse_header("whole", &bytes).unwrap();
    let end = header.tensors.iter().map(|tensor| tensor.offset + tensor.bytes).max().unwrap() as usize;
    let in_header = 0..header.header_bytes as usize;
    for length in in_header.clone().chain((in_header.end..end).step_by(997)) {
        assert!(gguf::parse_header("cut", &bytes[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn twenty_thousand_disturbed_ggufs_never_panic() {
    let mut numbers = Numbers(1);
    let small = small_gguf();
    let mut refused = 0;
    for _ in 0..19_000 {
        let mut bytes = small.clone();
        disturb(&mut bytes, small.len() - 324, &mut numbers);
        refused += usize::from(gguf::parse_header("disturbed", &bytes).is_err());
    }
    assert!(refused > 10_000, "only {refused} were refused");

    let Some(models) = models("twenty_thousand_disturbed_ggufs_never_panic (real file)") else { return };
    let real = std::fs::read(models.join("tiny/llama32/llama32-q4_0.gguf")).unwrap();
    let header = gguf::parse_header("real", &real).unwrap();
    let header_bytes = header.header_bytes as usize;
    // The counts, the description and the tensor table matter most; the vocabulary between them is long.
    let table = behind(&real, "tokenizer.chat_template");
    for round in 0..1_000 {
        let mut bytes = real.clone();
        match round % 2 {
            0 => disturb(&mut bytes, behind(&real, "tokenizer.ggml.tokens"), &mut numbers),
            _ => disturb(&mut bytes[table..], header_bytes - table, &mut numbers),
        }
        if let Ok(files) = ModelFiles::embedded("disturbed", bytes) {
            for role in [Role::Query, Role::Down] {
                files.tensor(role, Some(0)).unwrap();
            }
        }
    }
}

#[test]
fn a_vocabulary_of_many_pieces_is_borrowed_and_not_copied() {
    let count = 128_000u64;
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    text(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(9u32.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    (0..count).for_each(|piece| text(&mut bytes, &format!("piece {piece}")));
    let header = gguf::parse_header("large", &bytes).unwrap();
    let pieces = header.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!(pieces.len(), 128_000);
    assert!(bytes.as_ptr_range().contains(&pieces[127_999].as_ptr()));
}
