//! Golden bytes of the DHT: the reference's own, read and written again.
//!
//! Vectors and traces of a real Hivemind and a real Petals swarm are in ../shared/interop/wire; a few bytes
//! of the wire specification, and one record signed by the reference, are here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use kwaainet_fabric::hivemind::dictionary::{Dictionary, Entry, Subkey};
use kwaainet_fabric::hivemind::id::Id;
use kwaainet_fabric::hivemind::messages::*;
use kwaainet_fabric::hivemind::msgpack::Value;
use kwaainet_fabric::hivemind::petals::{Announcement, Notice, ServedModel, State};
use kwaainet_fabric::hivemind::validators;
use libp2p::identity::Keypair;
use serde_json::Value as Json;

fn hex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.replace(' ', "").as_bytes()).expect("hexadecimal")
}

/// The lines of a file of golden bytes; `None`, said aloud, where it isn't there.
fn wire(test: &str, file: &str) -> Option<Vec<Json>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let root = std::env::var_os("KWAAINET_SHARED").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    let Ok(text) = std::fs::read_to_string(root.join("interop/wire").join(file)) else {
        println!("skipped: {test}: no ../shared");
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect())
}

/// What the traces' JSON stands for; none for what JSON can't say.
fn value(json: &Json) -> Option<Value> {
    let list = |items: &Json| items.as_array()?.iter().map(value).collect::<Option<Vec<_>>>();
    Some(match json {
        Json::Null => Value::Nil,
        Json::Bool(truth) => Value::Bool(*truth),
        Json::Number(number) if number.is_f64() => Value::Float(number.as_f64()?),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::IntegerAbove(number.as_u64()?),
        },
        Json::String(text) if text == "inf" => Value::Float(f64::INFINITY),
        Json::String(text) => Value::from(text.as_str()),
        Json::Object(object) => {
            let (name, inside) = object.iter().next()?;
            match name.as_str() {
                "$bytes" => Value::Bytes(hex(inside.as_str()?)),
                "list" => Value::List(list(inside)?),
                "tuple" => Value::Tuple(list(inside)?),
                "dict" => {
                    let pairs = inside.as_array()?.iter();
                    Value::Map(
                        pairs
                            .map(|pair| Some((value(&pair[0])?, value(&pair[1])?)))
                            .collect::<Option<_>>()?,
                    )
                }
                _ => return None,
            }
        }
        Json::Array(_) => return None,
    })
}

#[test]
fn keys_have_the_references_ids() {
    let Some(vectors) = wire("keys_have_the_references_ids", "vectors.jsonl") else { return };
    let vectors: Vec<_> = vectors.iter().filter(|vector| vector["kind"] == "dht id of a key").collect();
    assert_eq!(vectors.len(), 5);
    for vector in vectors {
        let key = vector["key"].as_str().unwrap();
        assert_eq!(Value::from(key).encode(), hex(vector["packed"].as_str().unwrap()));
        assert_eq!(Id::of_key(key).to_string(), vector["id"].as_str().unwrap());
    }
}

/// A tensor's description, which the vectors hold as Python prints it.
fn is_descriptor(value: &Value) -> bool {
    matches!(value, Value::Extension(0x51, _))
}

#[test]
fn msgpack_is_the_references() {
    let Some(vectors) = wire("msgpack_is_the_references", "vectors.jsonl") else { return };
    let mut compared = 0;
    for vector in vectors.iter().filter(|vector| vector["kind"] == "msgpack") {
        let bytes = hex(vector["hex"].as_str().unwrap());
        let decoded = Value::decode(&bytes).unwrap();
        assert_eq!(decoded.encode(), bytes, "{vector}");
        if let Some(dictionary) = vector["value"].get("dictionary") {
            let decoded = Dictionary::decode(&bytes).unwrap();
            let entries = dictionary.as_array().unwrap().iter().map(|item| {
                let Some(Value::Bytes(bytes)) = value(&item[1]) else { panic!("{item}") };
                let subkey = Subkey::new(&value(&item[0]).unwrap()).unwrap();
                (subkey, Entry { value: bytes, expiration: item[2].as_f64().unwrap() })
            });
            assert_eq!(decoded.entries, entries.collect::<BTreeMap<_, _>>());
            compared += 1;
        } else if let Some(value) = value(&vector["value"]).filter(|_| !is_descriptor(&decoded)) {
            assert_eq!(decoded, value, "{vector}");
            compared += 1;
        }
    }
    assert_eq!(compared, 26);
}

/// Each message of the DHT in the traces is read, and written again to the same bytes.
#[test]
fn recorded_messages_are_read_and_written_alike() {
    let mut replayed = BTreeMap::new();
    for file in ["client.jsonl", "peer.jsonl", "server-0-2.jsonl", "server-2-4.jsonl"] {
        let Some(calls) = wire("recorded_messages_are_read_and_written_alike", file) else { return };
        for call in calls {
            let kind = call["type"].as_str().unwrap();
            let bytes = hex(call["hex"].as_str().unwrap());
            let again = match kind {
                "PingRequest" => PingRequest::decode(&bytes).map(|message| message.encode()),
                "PingResponse" => PingResponse::decode(&bytes).map(|message| message.encode()),
                "StoreRequest" => StoreRequest::decode(&bytes).map(|message| message.encode()),
                "StoreResponse" => StoreResponse::decode(&bytes).map(|message| message.encode()),
                "FindRequest" => FindRequest::decode(&bytes).map(|message| message.encode()),
                "FindResponse" => FindResponse::decode(&bytes).map(|message| message.encode()),
                _ => continue,
            };
            assert_eq!(again.unwrap(), bytes, "{call}");
            *replayed.entry(kind.to_owned()).or_insert(0) += 1;
        }
    }
    let counts: Vec<i32> = replayed.into_values().collect();
    assert_eq!(counts, [79, 78, 9, 9, 38, 36], "of six kinds");
}

/// What the reference's traces say a message holds is what we read in it.
#[test]
fn recorded_messages_hold_what_the_reference_says() {
    let Some(calls) = wire("recorded_messages_hold_what_the_reference_says", "server-0-2.jsonl") else {
        return;
    };
    let mut stores = 0;
    for call in calls.iter().filter(|call| call["type"] == "StoreRequest") {
        let request = StoreRequest::decode(&hex(call["hex"].as_str().unwrap())).unwrap();
        let message = &call["message"];
        for (index, item) in request.items.iter().enumerate() {
            let bytes = |list: &str| hex(message[list][index]["$bytes"].as_str().unwrap());
            assert_eq!(item.key.0[..], bytes("keys"));
            assert_eq!(item.tag, bytes("subkeys"));
            assert_eq!(item.value, bytes("values"));
            // The reader of JSON may be off by the last bit.
            let expiration = message["expiration_time"][index].as_f64().unwrap();
            assert!((item.expiration - expiration).abs() < 1e-6, "{} {expiration}", item.expiration);
            assert_eq!(item.in_cache, message["in_cache"][index].as_bool().unwrap());
            stores += 1;
        }
    }
    assert!(stores >= 10, "{stores}");
}

/// What a real Petals server wrote about itself, and answered to `rpc_info`: ours for the same blocks is the
/// same, up to the one field that we add to the record.
#[test]
fn block_records_and_info_are_petals_own() {
    let test = "block_records_and_info_are_petals_own";
    let (Some(server), Some(client)) = (wire(test, "server-0-2.jsonl"), wire(test, "client.jsonl")) else {
        return;
    };
    let peer = "12D3KooWPqy1shSqMfDAodavyTqX625p55BTkWAEM2FDJoTkccHi".parse().unwrap();
    let announcement = Announcement {
        state: State::Joining,
        model: Some(ServedModel {
            prefix: "tiny-llama".to_owned(),
            blocks: 4,
            served: 0..2,
            repository: None,
            hidden: 64,
            dtype: "float32".to_owned(),
        }),
        version: Some("2.2.0.post1".to_owned()),
        throughput: 1.0,
        quantization: Some("none".to_owned()),
        cache_tokens_left: Some(4096),
        ..Announcement::default()
    };
    let theirs = server
        .iter()
        .filter(|call| call["type"] == "StoreRequest")
        .find_map(|call| {
            let request = StoreRequest::decode(&hex(call["hex"].as_str()?)).ok()?;
            request.items.into_iter().find(|item| item.key == Id::of_key("tiny-llama.0"))
        })
        .expect("the server announced block 0");
    let records = announcement.records(peer, 2.0e9).unwrap();
    let ours = records.iter().find(|record| record.key == theirs.key).unwrap();
    assert_eq!(ours.subkey.as_ref().unwrap().bytes(), theirs.tag);
    let parts = |bytes: &[u8]| match Value::decode(bytes).unwrap() {
        Value::Tuple(parts) => parts,
        other => panic!("{other:?}"),
    };
    let (our_parts, their_parts) = (parts(&ours.value), parts(&theirs.value));
    assert_eq!(our_parts[..2], their_parts[..2]);
    let (Value::Map(our_info), Value::Map(their_info)) = (&our_parts[2], &their_parts[2]) else { panic!() };
    assert_eq!(our_info[..13], their_info[..]);
    assert_eq!(our_info[13].0, "peer_id".into());
    let models = records.iter().find(|record| record.key == Id::of_key("_petals.models")).unwrap();
    assert_eq!(models.value, hex("82aa6e756d5f626c6f636b7304aa7265706f7369746f7279c0"));

    let info = client.iter().find(|call| call["type"] == "ExpertInfo").expect("the client asked");
    let notice = Notice::default();
    notice.set(Announcement { cache_tokens_left: Some(2048), ..announcement }).unwrap();
    assert_eq!(notice.answer(b"\x0a\x0ctiny-llama.0", false).unwrap(), hex(info["hex"].as_str().unwrap()));
}

/// Section 4.11 of the wire specification.
#[test]
fn the_specifications_own_bytes() {
    let key = Id::of_key("_petals.models");
    let node = Some(Id([0x11; 20]));
    let request = FindRequest::decode(&hex("1214 0a63ed21831f3f7d24f07949cea69a94476b4faf")).unwrap();
    assert_eq!(request, FindRequest { keys: vec![key], node: None });

    let value = hex("82aa6e756d5f626c6f636b7302aa7265706f7369746f7279c0");
    let store = hex("1214 0a63ed21831f3f7d24f07949cea69a94476b4faf 1a05 a464656d6f \
         2219 82aa6e756d5f626c6f636b7302aa7265706f7369746f7279c0 2a08 00000040fc54d941 3201 00");
    let item = StoreItem {
        key,
        tag: hex("a464656d6f"),
        value: value.clone(),
        expiration: 1_700_000_000.0,
        in_cache: false,
    };
    let request = StoreRequest { items: vec![item], node: None };
    assert_eq!(StoreRequest::decode(&store).unwrap(), request);
    // We add who we are, and nothing else.
    assert_eq!(request.encode(), [store, hex("3a00")].concat());

    let entries = [(Subkey::text("demo").unwrap(), Entry { value, expiration: 1_700_000_000.0 })].into();
    let dictionary = hex("c73e50 93 cb7ff0000000000000 cb41d954fc40000000 91 93 a464656d6f \
         c419 82aa6e756d5f626c6f636b7302aa7265706f7369746f7279c0 cb41d954fc40000000");
    assert_eq!(Dictionary { entries }.encode(), dictionary);
    let found = FindResponse::decode(
        &[hex("124e 0802 1241"), dictionary.clone(), hex("19 00000040fc54d941")].concat(),
    );
    let found = found.unwrap().results.remove(0).value.unwrap();
    assert!(found.is_dictionary);
    assert_eq!((found.bytes, found.expiration), (dictionary, 1_700_000_000.0));

    let pong = PingResponse { node, time: 1_700_000_000.0, available: false }.encode();
    assert_eq!(pong, [hex("1216 0a14"), vec![0x11; 20], hex("21 00000040fc54d941")].concat());
    assert_eq!(PingRequest { node: None, validate: true }.encode(), hex("12001801"));
}

/// The forms of repeated numbers that other writers may choose.
#[test]
fn repeated_numbers_are_read_packed_or_single() {
    let list = |expirations: &str, flags: &str| {
        let key = "1214 0a63ed21831f3f7d24f07949cea69a94476b4faf 1a01 c0 2200";
        StoreRequest::decode(&hex(&format!("{key} {key} {expirations} {flags}"))).map(|request| {
            request.items.iter().map(|item| (item.expiration, item.in_cache)).collect::<Vec<_>>()
        })
    };
    let expected = vec![(1.5, false), (2.5, true)];
    let packed = list("2a10 000000000000f83f 0000000000000440", "3202 0001");
    assert_eq!(packed.unwrap(), expected);
    let single = list("29 000000000000f83f 29 0000000000000440", "3000 3001");
    assert_eq!(single.unwrap(), expected);
    assert!(list("29 000000000000f83f", "3000 3001").unwrap_err().0.contains("1 expirations"));
    assert!(
        list("29 000000000000f83f 29 000000000000f8ff", "3000 3001").unwrap_err().0.contains("not a number")
    );
}

#[test]
fn a_record_signed_by_the_reference_passes_and_a_changed_one_does_not() {
    let vector: Json = serde_json::from_str(include_str!("vectors/rsa_record.json")).unwrap();
    let bytes = |name: &str| hex(vector[name].as_str().unwrap());
    let key = Id::try_from(&bytes("key")[..]).unwrap();
    let subkey = Subkey::decode(&bytes("subkey")).unwrap();
    let expiration = vector["expiration"].as_f64().unwrap();
    let signed = bytes("value");
    let value = validators::check(key, Some(&subkey), &signed, expiration).unwrap();
    assert_eq!(value.as_ref(), hex("9201a374776f"));
    let refusal = |key: Id, value: &[u8], expiration: f64| {
        validators::check(key, Some(&subkey), value, expiration).unwrap_err().0
    };
    let another = "signed by another than the owner";
    assert!(refusal(key, &signed, expiration + 1.0).contains(another));
    assert!(refusal(Id::of_key("model.1"), &signed, expiration).contains(another));
    let mut changed = signed.clone();
    changed[1] = 2;
    assert!(refusal(key, &changed, expiration).contains(another));
    assert!(refusal(key, &hex("9201a374776f"), expiration).contains("bears no signature"));
}

#[test]
fn a_record_of_ours_is_its_peers_alone() {
    let keys = |seed: u8| Keypair::ed25519_from_bytes([seed; 32]).unwrap();
    let (ours, others) = (keys(1), keys(2));
    let key = Id::of_key("_kwaai.anything");
    let subkey = validators::owned_subkey(ours.public().to_peer_id(), "name").unwrap();
    let signed = validators::sign(&ours, key, &subkey, b"value", 5.0).unwrap();
    assert_eq!(validators::check(key, Some(&subkey), &signed, 5.0).unwrap().as_ref(), b"value");
    let forged = validators::sign(&others, key, &subkey, b"value", 5.0).unwrap();
    let refusal =
        |subkey: &Subkey, value: &[u8]| validators::check(key, Some(subkey), value, 5.0).unwrap_err().0;
    assert!(refusal(&subkey, &forged).contains("signed by another than the owner"));
    assert!(refusal(&subkey, b"value").contains("bears no signature"));
    assert!(refusal(&subkey, b"value[signature:!]").contains("no base64"));
    assert!(refusal(&subkey, &[&signed[..], &signed].concat()).contains("no base64"));
    let two = Subkey::text("[owner:ssh-rsa AAAA][kwaai-owner:12D3]").unwrap();
    assert!(refusal(&two, &signed).contains("two owners"));
    // An RSA peer's id is a hash of its key, so nothing can be checked with it.
    let hashed = Subkey::text("[kwaai-owner:QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc]").unwrap();
    assert!(refusal(&hashed, &signed).contains("holds its public key"));
    assert!(refusal(&Subkey::text("[owner:ssh-dss AAAA]").unwrap(), &signed).contains("no RSA key"));
    // What names no owner needs no signature.
    let free = Subkey::text("anybody").unwrap();
    assert_eq!(validators::check(key, Some(&free), b"value", 5.0).unwrap().as_ref(), b"value");
}
