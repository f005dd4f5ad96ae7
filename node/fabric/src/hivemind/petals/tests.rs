//! What is announced, field by field.
//!
//! Golden bytes of the reference are in tests/dht_vectors.rs; here are the rules that its traces don't show.

use super::*;

fn peer() -> PeerId {
    "12D3KooWPqy1shSqMfDAodavyTqX625p55BTkWAEM2FDJoTkccHi".parse().unwrap()
}

fn announcement() -> Announcement {
    Announcement {
        state: State::Online,
        model: Some(ServedModel {
            prefix: "Llama-3-hf".to_owned(),
            blocks: 32,
            served: 4..7,
            repository: Some("https://huggingface.co/org/Llama-3".to_owned()),
            hidden: 64,
            dtype: "float32".to_owned(),
        }),
        knowledge: Some(SealedKnowledge {
            mode: "both".to_owned(),
            capacity_gb: 2.0,
            tenants: 3,
            version: "1.0".to_owned(),
        }),
        public_name: Some("a board".to_owned()),
        version: Some("kwaai-0.1.0".to_owned()),
        throughput: 10.0,
        inference_rps: Some(5.0),
        cache_tokens_left: Some(100),
        next_pings: vec![(peer(), f64::INFINITY)],
        ..Announcement::default()
    }
}

fn value(record: &Record) -> Value {
    Value::decode(&record.value).unwrap()
}

fn under<'a>(records: &'a [Record], key: &str) -> &'a Record {
    records.iter().find(|record| record.key == Id::of_key(key)).expect(key)
}

#[test]
fn every_block_the_model_and_the_kwaainet_keys_are_announced() {
    let records = announcement().records(peer(), 1.0e9).unwrap();
    assert_eq!(records.len(), 3 + 3);
    let block = value(under(&records, "Llama-3-hf.5"));
    let Value::Tuple(parts) = &block else { panic!("{block:?}") };
    assert_eq!(parts[..2], [Value::Integer(2), Value::Float(10.0)]);
    let info = &parts[2];
    for (name, expected) in [
        ("start_block", Value::Integer(4)),
        ("end_block", Value::Integer(7)),
        ("inference_rps", Value::Float(5.0)),
        ("forward_rps", Value::Nil),
        ("adapters", Value::Tuple(vec![])),
        ("using_relay", Value::Bool(false)),
        ("cache_tokens_left", Value::Integer(100)),
        ("next_pings", Value::Map(vec![(peer().to_base58().into(), f64::INFINITY.into())])),
    ] {
        assert_eq!(info.member(name), Some(&expected), "{name}");
    }
    let subkey = |key| under(&records, key).subkey.clone().unwrap().value();
    assert_eq!(subkey("Llama-3-hf.5"), peer().to_base58().into());
    assert_eq!(subkey(MODELS_KEY), "Llama-3-hf".into());
    let model = value(under(&records, MODELS_KEY));
    assert_eq!(model.member("num_blocks"), Some(&Value::Integer(32)));
    assert_eq!(model.member("repository").unwrap().as_text(), Some("https://huggingface.co/org/Llama-3"));
    assert_eq!(value(under(&records, INFERENCE_NODES_KEY)), block);
    let knowledge = value(under(&records, VPK_NODES_KEY));
    assert_eq!(knowledge.member("capacity_gb"), Some(&Value::Float(2.0)));
    assert_eq!(knowledge.member("tenant_count"), Some(&Value::Integer(3)));
}

#[test]
fn a_node_that_is_gone_says_so_everywhere_it_was_announced() {
    let records = announcement().gone().records(peer(), 1.0e9).unwrap();
    for key in ["Llama-3-hf.4", "Llama-3-hf.6", INFERENCE_NODES_KEY] {
        let Value::Tuple(parts) = value(under(&records, key)) else { panic!("{key}") };
        assert_eq!(parts[..2], [Value::Integer(0), Value::Float(0.0)], "{key}");
        assert_eq!(parts[2].member("cache_tokens_left"), Some(&Value::Integer(0)));
        assert_eq!(parts[2].member("next_pings"), Some(&Value::Nil));
    }
    assert_eq!(value(under(&records, VPK_NODES_KEY)), Value::Nil);
    // The model is others' as well.
    assert!(records.iter().all(|record| record.key != Id::of_key(MODELS_KEY)));
}

#[test]
fn private_models_are_not_listed() {
    let mut private = announcement();
    private.model.as_mut().unwrap().prefix = "_secret".to_owned();
    let records = private.records(peer(), 1.0e9).unwrap();
    assert!(records.iter().all(|record| record.key != Id::of_key(MODELS_KEY)));
    under(&records, "_secret.4");
}

#[test]
fn what_readers_would_refuse_is_not_announced() {
    let refusal = |change: fn(&mut Announcement)| {
        let mut changed = announcement();
        change(&mut changed);
        changed.records(peer(), 1.0e9).unwrap_err().0
    };
    let model = |change: fn(&mut ServedModel)| {
        let mut changed = announcement();
        change(changed.model.as_mut().unwrap());
        changed.records(peer(), 1.0e9).unwrap_err().0
    };
    assert!(model(|model| model.prefix = "a.b".to_owned()).contains("holds a dot or a space"));
    assert!(model(|model| model.served = 30..33).contains("of a model that has 32"));
    assert!(model(|model| model.served = 3..3).contains("blocks 3 to 3"));
    assert!(refusal(|all| all.throughput = f64::NAN).contains("NaN is not a number"));
    assert!(refusal(|all| all.forward_rps = Some(f64::INFINITY)).contains("inf is not a number"));
    assert!(refusal(|all| all.next_pings[0].1 = -1.0).contains("round-trip time -1"));
    assert!(refusal(|all| all.next_pings = vec![(peer(), 1.0); NEXT_PINGS_MAX + 1]).contains("more than"));
    assert!(refusal(|all| all.adapters = vec![String::new(); ADAPTERS_MAX + 1]).contains("more than"));
    let name = refusal(|all| all.public_name = Some("x".repeat(NAME_BYTES_MAX + 1)));
    assert_eq!(name, "the public name has 257 bytes; it has at most 256");
    let mut at_limit = announcement();
    at_limit.public_name = Some("x".repeat(NAME_BYTES_MAX));
    at_limit.adapters = vec!["x".repeat(NAME_BYTES_MAX); ADAPTERS_MAX];
    at_limit.next_pings = vec![(peer(), 1.0); NEXT_PINGS_MAX];
    assert!(at_limit.check().is_ok());
}

#[test]
fn info_is_told_about_the_node_and_about_its_own_blocks_alone() {
    let all = announcement();
    let short = all.info("", true).unwrap();
    assert_eq!(short.member("dht_client_mode"), Some(&Value::Bool(true)));
    assert_eq!(short.member("version").unwrap().as_text(), Some("kwaai-0.1.0"));
    assert_eq!(short.member("cache_tokens_available"), Some(&Value::Integer(100)));
    assert_eq!(short.member("forward_schema"), None);
    assert!(all.info("Llama-3-hf.4", false).unwrap().member("inference_schema").is_some());
    assert!(all.info("Llama-3-hf.4 Llama-3-hf.6", false).is_ok());
    for uid in ["Llama-3-hf.3", "Llama-3-hf.4 Llama-3-hf.7", "other.4", "Llama-3-hf", "Llama-3-hf.4x"] {
        assert_eq!(all.info(uid, false).unwrap_err().0, format!("Remote peer does not serve {uid}"));
    }
}

#[test]
fn prefixes_follow_petals_rule_for_llamas() {
    assert_eq!(prefix_of_llama("meta-llama/Llama-3.1-8B"), "Llama-3-1-8B-hf");
    assert_eq!(prefix_of_llama("Llama-2-70b-chat-hf"), "Llama-2-70b-chat-hf");
}
