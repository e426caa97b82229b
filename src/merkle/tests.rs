//! Trees, and the proofs about them, against the definition and against an independent verifier.

use super::*;
use std::convert::Infallible;

struct Leaves(Vec<Hash>);

impl Nodes for Leaves {
    type Error = Infallible;
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Infallible> {
        let (from, width) = ((index << level) as usize, 1 << level);
        Ok(perfect_root(&self.0[from..from + width]).unwrap())
    }
}

fn leaves(count: u64) -> Leaves {
    Leaves((0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect())
}

#[test]
fn the_appender_agrees_with_the_definition() {
    let mut frontier = Frontier::default();
    let mut all = leaves(70);
    for size in 0..70 {
        assert_eq!(frontier.root(), root(&mut all, size).unwrap(), "size {size}");
        let again = Frontier::from_parts(size, frontier.roots.clone()).unwrap();
        assert_eq!(again, frontier);
        frontier.push(all.0[size as usize]);
    }
}

#[test]
fn every_inclusion_proof_proves_and_nothing_else_does() {
    let mut all = leaves(40);
    for size in 1..40 {
        let tree = root(&mut all, size).unwrap();
        for index in 0..size {
            let leaf = all.0[index as usize];
            let proof = inclusion_proof(&mut all, index, size).unwrap();
            assert!(verify_inclusion(&leaf, index, size, &proof, &tree));
            assert!(!verify_inclusion(&leaf, (index + 1) % size.max(2), size, &proof, &tree) || size == 1);
            let mut longer = proof.clone();
            longer.push(leaf);
            assert!(!verify_inclusion(&leaf, index, size, &longer, &tree));
            let independent = tlog_tiles::check_record(
                &proof.iter().map(|hash| tlog_tiles::Hash(*hash)).collect(),
                size,
                tlog_tiles::Hash(tree),
                index,
                tlog_tiles::Hash(leaf),
            );
            assert!(independent.is_ok(), "{size} {index}");
        }
    }
}

#[test]
fn every_consistency_proof_proves_and_a_fork_does_not() {
    let mut all = leaves(40);
    let mut fork = leaves(40);
    fork.0[3] = leaf_hash(b"another history");
    for new in 1..40 {
        let new_root = root(&mut all, new).unwrap();
        for old in 0..=new {
            let old_root = root(&mut all, old).unwrap();
            let proof = consistency_proof(&mut all, old, new).unwrap();
            assert!(verify_consistency(old, &old_root, new, &new_root, &proof), "{old} {new}");
            if old > 3 && old < new {
                let forked = root(&mut fork, old).unwrap();
                assert!(!verify_consistency(old, &forked, new, &new_root, &proof));
            }
            if old > 0 && old < new {
                let independent = tlog_tiles::check_tree(
                    &proof.iter().map(|hash| tlog_tiles::Hash(*hash)).collect(),
                    new,
                    tlog_tiles::Hash(new_root),
                    old,
                    tlog_tiles::Hash(old_root),
                );
                assert!(independent.is_ok(), "{old} {new}");
            }
        }
    }
}
