//! The table of settings. `docs/config.md` shows it; a test holds the two together.

use kwaainet_engine::limits::{CONTEXT_TOKENS_MAX, SESSIONS_MAX, THREADS_MAX};

use super::kind::{Kind, Text};

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Table and key of `config.toml`, with a dot between.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What holds when nobody says otherwise; `None`: it is then not set, and `meaning` says what that does.
    pub default: Option<&'static str>,
    /// What it does, in a sentence.
    pub meaning: &'static str,
}

impl Key {
    /// Its variable in the environment.
    pub fn variable(&self) -> String {
        format!("KWAAINET_{}", self.name.replace('.', "_").to_ascii_uppercase())
    }
}

const fn number(least: u64, most: usize, unit: &'static str) -> Kind {
    Kind::Number { least, most: most as u64, unit }
}

macro_rules! keys {
    ($($constant:ident $name:literal, $kind:expr, $default:expr, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub static $constant: Key =
                Key { name: $name, kind: $kind, default: $default, meaning: $meaning };
        )*
        /// All settings, in the order in which they are shown.
        pub static KEYS: &[&Key] = &[$(&$constant),*];
    };
}

keys! {
    HTTP_HOST "http.host", Kind::Text(Text::Host), Some("127.0.0.1"),
        "the address that the HTTP API listens at; any but loopback asks for a key";
    HTTP_PORT "http.port", number(0, 65535, ""), Some("11435"),
        "its port; 0 takes a free one, and `status` tells it";
    HTTP_API_KEY_FILE "http.api_key_file", Kind::Text(Text::Path), None,
        "a file whose first line is the key that clients must send; not set: no key on loopback";
    HTTP_INSECURE_NO_KEY "http.insecure_no_key", Kind::Switch, Some("false"),
        "ask for no key although others can reach the port";
    HTTP_CORS "http.cors", Kind::List(Text::Origin), Some(""),
        "origins whose web pages may ask; * is all of them";

    MODEL_PATH "model.path", Kind::Text(Text::Path), None,
        "a GGUF file or a Hugging Face folder; not set: the small story-teller inside the binary";
    MODEL_NAME "model.name", Kind::Text(Text::Plain), None,
        "the name that clients know the model by; not set: the file's";
    MODEL_SESSIONS "model.sessions", number(1, SESSIONS_MAX, "answers"), Some("4"),
        "answers written at once; more wait in a queue";
    MODEL_CONTEXT "model.context", number(1, CONTEXT_TOKENS_MAX, "tokens"), None,
        "prompt and answer together; not set: what the model was made for, at most 4096";
    MODEL_KV "model.kv", Kind::OneOf(&["f16", "q8_0", "f32"]), Some("f16"),
        "how keys and values are kept";
    MODEL_QUANTIZE "model.quantize", Kind::OneOf(&["keep", "f32", "q8_0", "q4_0", "q4_k"]), Some("keep"),
        "what to make of float weights";
    MODEL_THREADS "model.threads", number(1, THREADS_MAX, "threads"), None,
        "compute threads; not set: all fast cores";
    MODEL_PIN "model.pin", Kind::Switch, Some("false"),
        "bind each compute thread to a core, fast cores first";
    MODEL_RESIDENCE "model.residence", Kind::OneOf(&["mapped", "locked", "streamed"]), Some("mapped"),
        "weights come as they are used, are locked in memory at once, or are read anew for each token";
    MODEL_HUGE_PAGES "model.huge_pages", Kind::Switch, Some("false"),
        "ask the system for large pages";

    IDENTITY_KEY_FILE "identity.key_file", Kind::Text(Text::Path), Some("identity.key"),
        "the node's key; only the one in the home folder is made when it is missing";
    IDENTITY_PASSPHRASE_FILE "identity.passphrase_file", Kind::Text(Text::Path), None,
        "a file whose first line opens a sealed key; not set: KWAAINET_PASSPHRASE, then a person";

    NETWORK_ENABLED "network.enabled", Kind::Switch, Some("true"),
        "whether `start` joins the network; without it the node works alone";
    NETWORK_LISTEN "network.listen", Kind::List(Text::Address),
        Some("/ip4/0.0.0.0/tcp/8080,/ip6/::/tcp/8080"),
        "addresses to listen at for peers; port 0 takes a free one, 8080 is KwaaiNet's";
    NETWORK_ANNOUNCE "network.announce", Kind::List(Text::Address), Some(""),
        "addresses to tell peers beside those that are found out, such as a forwarded port of a router";
    NETWORK_BOOTSTRAP "network.bootstrap", Kind::List(Text::PeerAddress), Some(BOOTSTRAP),
        "peers to begin with: KwaaiNet's and Petals' public ones unless told otherwise";
    NETWORK_PUBLIC_NAME "network.public_name", Kind::Text(Text::Plain), None,
        "what people see of the node, on maps and in lists; not set: nothing";
    NETWORK_SWARM "network.swarm", Kind::Text(Text::Name), Some(""),
        "the swarm's name; nodes of another name are not found, and empty is the public one";
    NETWORK_LAN_ONLY "network.lan_only", Kind::Switch, Some("false"),
        "speak with this network only: no outside name is resolved and no outside address dialled";
    NETWORK_MDNS "network.mdns", Kind::Switch, Some("true"),
        "find peers on this network, and be found";
    NETWORK_RELAY_SERVER "network.relay_server", Kind::Switch, Some("false"),
        "carry bytes, within bounds, between peers that can't reach each other";
    NETWORK_BLOCKED "network.blocked", Kind::List(Text::Peer), Some(""),
        "peers that are not spoken with";
}

/// Public peers to begin with: KwaaiNet's two, then Petals' two, by name so that they can move.
const BOOTSTRAP: &str = concat!(
    "/dns/bootstrap-1.kwaai.ai/tcp/8000/p2p/QmQhRuheeCLEsVD3RsnknM75gPDDqxAb8DhnWgro7KhaJc,",
    "/dns/bootstrap-2.kwaai.ai/tcp/8000/p2p/Qmd3A8N5aQBATe2SYvNikaeCS9CAKN4E86jdCPacZ6RZJY,",
    "/dns/bootstrap1.petals.dev/tcp/31337/p2p/QmedTaZXmULqwspJXz44SsPZyTNKxhnnFvYRajfH7MGhCY,",
    "/dns/bootstrap2.petals.dev/tcp/31338/p2p/QmQGTqmM7NKjV6ggU1ZCap8zWiyKR89RViDXiqehSiCpY5"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_of_its_kind_and_every_name_has_two_parts() {
        for key in KEYS {
            if let Some(default) = key.default {
                let value = key.kind.parse(default).unwrap_or_else(|what| panic!("{}: {what}", key.name));
                assert_eq!(value.to_string(), default, "{}", key.name);
            }
            assert_eq!(key.name.split('.').count(), 2, "{}", key.name);
        }
    }

    #[test]
    fn no_variable_is_another_settings_or_one_of_the_nodes_own() {
        let mut names: Vec<String> = KEYS.iter().map(|key| key.variable()).collect();
        names.extend(
            ["HOME", "KERNELS", "API_KEY", "PASSPHRASE", "SHARED", "CI_CACHE"]
                .map(|name| format!("KWAAINET_{name}")),
        );
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../../docs/config.md");
        let mut table = String::from("| key | may be | default | meaning |\n|---|---|---|---|\n");
        for key in KEYS {
            let default = match key.default {
                None => "not set".to_owned(),
                Some("") => "empty".to_owned(),
                Some(text) => text.split(',').map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", "),
            };
            let meaning = key.meaning.replace('*', "`*`");
            let kind = key.kind.to_string().replace("or *", "or `*`");
            table += &format!("| `{}` | {kind} | {default} | {meaning} |\n", key.name);
        }
        assert!(page.contains(&table), "docs/config.md should hold this table:\n\n{table}");
    }
}
