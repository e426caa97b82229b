//! Trees, and the proofs about them, against the definition and against an independent verifier.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

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

/// How many leaves the tree of the properties has: past the first tile, of no round size.
const MOST: usize = 600;

/// Sizes at which the shape of a tree changes, and each of the smallest.
fn sizes() -> Vec<usize> {
    let around = [64, 128, 256, 512].into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]);
    (0..=33).chain(around).chain([300, MOST]).collect()
}

fn any_size() -> impl Strategy<Value = usize> {
    prop_oneof![prop::sample::select(sizes()), 0..=MOST]
}

/// MTH of RFC 6962 section 2.1, word by word; `known` remembers what was computed.
fn defined(leaves: &[Hash], begin: usize, end: usize, known: &mut HashMap<(usize, usize), Hash>) -> Hash {
    if let Some(hash) = known.get(&(begin, end)) {
        return *hash;
    }
    let hash = match end - begin {
        0 => sha256(&[]),
        1 => leaves[begin],
        n => {
            let mut k = 1;
            while k * 2 < n {
                k *= 2;
            }
            let left = defined(leaves, begin, begin + k, known);
            sha256(&[&[1], &left, &defined(leaves, begin + k, end, known)])
        }
    };
    known.insert((begin, end), hash);
    hash
}

/// The rows of perfect subtrees over the first [`MOST`] leaves, as tiles hold them.
struct Rows(Vec<Vec<Hash>>);

impl Nodes for &Rows {
    type Error = Infallible;
    fn node(&mut self, level: u32, index: u64) -> Result<Hash, Infallible> {
        Ok(self.0[level as usize][index as usize])
    }
}

fn rows() -> &'static Rows {
    static ROWS: LazyLock<Rows> = LazyLock::new(|| {
        let mut rows = vec![leaves(MOST as u64).0];
        while let Some(row) = rows.last().filter(|row| row.len() > 1) {
            rows.push(row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect());
        }
        Rows(rows)
    });
    &ROWS
}

fn leaf(index: usize) -> Hash {
    rows().0[0][index]
}

/// Roots of the trees of 0 to [`MOST`] leaves, by the definition.
fn roots() -> &'static [Hash] {
    static ROOTS: LazyLock<Vec<Hash>> = LazyLock::new(|| {
        let mut known = HashMap::new();
        (0..=MOST).map(|size| defined(&rows().0[0], 0, size, &mut known)).collect()
    });
    &ROOTS
}

fn inclusion(index: usize, size: usize) -> Vec<Hash> {
    inclusion_proof(&mut rows(), index as u64, size as u64).unwrap()
}

fn consistency(old: usize, new: usize) -> Vec<Hash> {
    consistency_proof(&mut rows(), old as u64, new as u64).unwrap()
}

fn includes(leaf: &Hash, index: usize, size: usize, proof: &[Hash], root: &Hash) -> bool {
    verify_inclusion(leaf, index as u64, size as u64, proof, root)
}

fn extends(old: usize, old_root: &Hash, new: usize, new_root: &Hash, proof: &[Hash]) -> bool {
    verify_consistency(old as u64, old_root, new as u64, new_root, proof)
}

/// The same hash but for one bit.
fn flipped(hash: &Hash, bit: usize) -> Hash {
    let mut other = *hash;
    other[bit / 8 % 32] ^= 1 << (bit % 8);
    other
}

/// Each list that differs from `proof` by one bit, one element less, one more, or two exchanged.
fn damaged(proof: &[Hash], bit: usize, more: &Hash) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for at in 0..proof.len() {
        let mut other = proof.to_vec();
        other[at] = flipped(&proof[at], bit);
        all.push(other);
        let mut other = proof.to_vec();
        other.remove(at);
        all.push(other);
        let mut other = proof.to_vec();
        other.swap(0, at);
        all.push(other);
    }
    for at in 0..=proof.len() {
        let mut other = proof.to_vec();
        other.insert(at, *more);
        all.push(other);
    }
    all.retain(|other| other != proof);
    all
}

#[test]
fn every_tree_has_the_root_of_the_definition() {
    let mut frontier = Frontier::default();
    for size in 0..=MOST {
        assert_eq!(frontier.size(), size as u64);
        assert_eq!(frontier.root(), roots()[size], "size {size}");
        assert_eq!(root(&mut rows(), size as u64).unwrap(), roots()[size], "size {size}");
        // A ledger that is opened again goes on from what it kept.
        frontier = Frontier::from_parts(size as u64, frontier.roots.clone()).unwrap();
        assert_eq!(Frontier::from_parts(size as u64 ^ 1, frontier.roots.clone()), None);
        if size < MOST {
            frontier.push(leaf(size));
        }
    }
}

#[test]
fn a_perfect_root_is_that_of_the_definition_and_others_have_none() {
    for size in 0..=MOST {
        let expected = size.is_power_of_two().then(|| roots()[size]);
        assert_eq!(perfect_root(&rows().0[0][..size]), expected, "size {size}");
    }
}

#[test]
fn each_proof_of_each_shape_verifies() {
    for new in sizes() {
        for at in 0..new {
            assert!(includes(&leaf(at), at, new, &inclusion(at, new), &roots()[new]), "{at} {new}");
        }
        for old in 0..=new {
            assert!(extends(old, &roots()[old], new, &roots()[new], &consistency(old, new)), "{old} {new}");
        }
        assert!(inclusion(new, new).is_empty() && consistency(new + 1, new).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_inclusion_proof_proves_one_leaf_at_one_place(
        size in any_size(), place in any::<prop::sample::Index>(), bit in 0..256_usize, more in any::<Hash>(),
    ) {
        prop_assume!(size > 0);
        let (index, root) = (place.index(size), roots()[size]);
        let (own, proof) = (leaf(index), inclusion(index, size));
        prop_assert!(includes(&own, index, size, &proof, &root));
        prop_assert!(!includes(&flipped(&own, bit), index, size, &proof, &root));
        prop_assert!(!includes(&own, index, size, &proof, &flipped(&root, bit)));
        for other in damaged(&proof, bit, &more) {
            prop_assert!(!includes(&own, index, size, &other, &root), "{} of {}: {:?}", index, size, other);
        }
        for other in (0..size + 2).filter(|other| *other != index) {
            prop_assert!(!includes(&own, other, size, &proof, &root), "{} passes for {}", index, other);
        }
    }

    #[test]
    fn a_consistency_proof_proves_two_roots(
        new in any_size(), place in any::<prop::sample::Index>(), bit in 0..256_usize, more in any::<Hash>(),
    ) {
        let old = place.index(new + 1);
        let (old_root, new_root, proof) = (roots()[old], roots()[new], consistency(old, new));
        prop_assert!(extends(old, &old_root, new, &new_root, &proof));
        prop_assert!(!extends(old, &flipped(&old_root, bit), new, &new_root, &proof));
        // Every tree has the empty tree as a prefix, so a proof of that says nothing of the new root.
        prop_assert!(old == 0 || !extends(old, &old_root, new, &flipped(&new_root, bit), &proof));
        prop_assert!(old == new || !extends(new, &new_root, old, &old_root, &proof));
        for other in damaged(&proof, bit, &more) {
            prop_assert!(!extends(old, &old_root, new, &new_root, &other), "{} in {}: {:?}", old, new, other);
        }
    }

    #[test]
    fn foreign_numbers_and_proofs_of_any_length_are_refused(
        index in any::<u64>(), size in any::<u64>(), proof in prop::collection::vec(any::<Hash>(), 0..70),
        one in any::<Hash>(), two in any::<Hash>(),
    ) {
        prop_assert!(!verify_inclusion(&one, index, size, &proof, &two));
        prop_assert!(!verify_inclusion(&one, size, index, &proof, &two));
        prop_assert!(!verify_consistency(index, &one, size, &two, &proof));
        prop_assert!(!verify_consistency(size, &one, size, &two, &proof));
    }
}
