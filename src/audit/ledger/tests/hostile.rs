//! The parsers of foreign bytes: nothing makes them panic, and what they accept they write back the same.

use proptest::prelude::*;

use super::*;
use crate::audit::ledger::frame::{BLOCK, Body, Head, Place, Section, decode, encode};
use crate::audit::ledger::tiles::split_entries;
use crate::audit::receipt::Receipt;

/// Arbitrary bytes, often with a frame's beginning, so that more than the first check is reached.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), proptest::collection::vec(any::<u8>(), 0..600))
        .prop_map(|(begun, rest)| if begun { [b"CHNCRYJ1".to_vec(), rest].concat() } else { rest })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in bytes()) {
        prop_assert!(decode(&bytes).is_err());
        split_entries(&bytes);
    }

    #[test]
    fn any_frame_comes_back(leaves in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..20), first in 0_u64..1 << 40) {
        let head = Head {
            log: "ca-2026".into(), size: first + leaves.len() as u64, root: [1; 32],
        };
        let body = Body::Records(vec![Section { first, leaves: leaves.iter().map(Vec::as_slice).collect(), head }]);
        let mut out = vec![0; BLOCK];
        encode(&Place { epoch: 7, number: 8, previous: [2; 32] }, &body, &mut out);
        prop_assert_eq!(decode(&out[BLOCK..]).unwrap().body, body);
    }

    #[test]
    fn any_text_is_parsed_or_refused(text in "(c2sp.org/tlog-proof@v1\n)?(index [0-9]{1,3}\n)?\\PC{0,40}\n\n\\PC{0,60}\n") {
        if let Ok(receipt) = text.parse::<Receipt>() {
            prop_assert_eq!(receipt.to_string().parse::<Receipt>().unwrap(), receipt);
        }
        let _ = VerifierKey::parse(&text);
        let key = VerifierKey::parse("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k").unwrap();
        prop_assert!(key.verify(&text).is_err());
    }

    #[test]
    fn any_tile_path_is_parsed_one_way(path in "tile/(entries|[0-9]{1,2})/(x[0-9]{3}/){0,7}[0-9]{3}(\\.p/[0-9]{1,3})?") {
        if let Some(name) = TileName::parse(&path) {
            prop_assert_eq!(name.path(), path);
        }
    }
}
