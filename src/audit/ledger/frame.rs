//! The journal's frames: what one commit puts on disk. Pure, no IO; the parser treats its input as hostile.
//!
//! ```text
//! magic[8] kind u8 epoch u64 number u64 length u32 previous[32] | payload[length] | checksum[32] | zeroes to 4096
//! ```
//! Numbers are big-endian. The checksum is SHA-256 over everything before it, and `previous` is the checksum of the
//! frame before: so a frame is whole or it is not, belongs to this use of its segment (`epoch`) or to an earlier one,
//! and follows its neighbour or does not. A frame starts at a multiple of [`BLOCK`], so no commit rewrites a block
//! that an earlier commit made durable.

use crate::merkle::{Hash, sha256};

/// Frames start at multiples of this, in bytes: the page of the cache and the sector of the disk.
pub(crate) const BLOCK: usize = 4096;
/// Bytes before the payload.
const HEADER: usize = 8 + 1 + 8 + 8 + 4 + 32;
/// Bytes behind the payload.
const CHECKSUM: usize = 32;
/// The longest payload that is believed, in bytes; segments are smaller in practice.
const LARGEST_PAYLOAD: usize = 1 << 30;
/// The longest name of a log, in bytes.
pub(crate) const LONGEST_LOG_NAME: usize = 64;

const MAGIC: [u8; 8] = *b"CHNCRYJ1";

/// A log and how far it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The log's name, such as `ca-2026`.
    pub(crate) log: String,
    /// Records in it.
    pub(crate) size: u64,
    /// Its root at that size.
    pub(crate) root: Hash,
}

/// Records that one frame adds to one log, and the tree head after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section<R> {
    /// The index of the first record.
    pub(crate) first: u64,
    /// The records.
    pub(crate) leaves: Vec<R>,
    /// The head after them.
    pub(crate) head: Head,
}

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body<R> {
    /// The first frame of a segment: every log as it was when the segment began.
    Base(Vec<Head>),
    /// A commit.
    Records(Vec<Section<R>>),
    /// A clean end: every view below is synced.
    Close(Vec<Head>),
}

/// Where a frame stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which use of which segment.
    pub(crate) epoch: u64,
    /// Counts frames over all segments.
    pub(crate) number: u64,
    /// The checksum of the frame before.
    pub(crate) previous: Hash,
}

/// A parsed frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) place: Place,
    pub(crate) body: Body<&'a [u8]>,
    pub(crate) checksum: Hash,
    /// Bytes it takes in the segment, with padding.
    pub(crate) length: usize,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameFault {
    /// No frame starts here.
    Absent,
    /// One starts here and is cut short or has another checksum.
    Torn,
    /// Whole, but of a form that this version does not know.
    Unknown,
}

/// Bytes that a commit of these sections takes in a segment.
pub(crate) fn encoded_length<R: AsRef<[u8]>>(body: &Body<R>) -> usize {
    let head = |head: &Head| 2 + head.log.len() + 8 + 32;
    let payload = match body {
        Body::Base(heads) | Body::Close(heads) => 2 + heads.iter().map(head).sum::<usize>(),
        Body::Records(sections) => {
            let leaves =
                |section: &Section<R>| section.leaves.iter().map(|leaf| 2 + leaf.as_ref().len()).sum::<usize>();
            2 + sections.iter().map(|section| head(&section.head) + 8 + 4 + leaves(section)).sum::<usize>()
        }
    };
    (HEADER + payload + CHECKSUM).next_multiple_of(BLOCK)
}

/// Appends the frame to `out` and returns its checksum. A leaf is at most 65,535 bytes, as `Event::to_leaf` holds.
pub(crate) fn encode<R: AsRef<[u8]>>(place: &Place, body: &Body<R>, out: &mut Vec<u8>) -> Hash {
    let start = out.len();
    out.reserve(encoded_length(body));
    out.extend(MAGIC);
    out.push(match body {
        Body::Base(_) => 0,
        Body::Records(_) => 1,
        Body::Close(_) => 2,
    });
    out.extend(place.epoch.to_be_bytes());
    out.extend(place.number.to_be_bytes());
    let length_at = out.len();
    out.extend([0; 4]);
    out.extend(place.previous);
    let payload_at = out.len();
    match body {
        Body::Base(heads) | Body::Close(heads) => {
            put_u16(out, heads.len());
            heads.iter().for_each(|head| put_head(out, head));
        }
        Body::Records(sections) => {
            put_u16(out, sections.len());
            for section in sections {
                put_head(out, &section.head);
                out.extend(section.first.to_be_bytes());
                out.extend(u32::try_from(section.leaves.len()).unwrap_or(u32::MAX).to_be_bytes());
                for leaf in &section.leaves {
                    put_u16(out, leaf.as_ref().len());
                    out.extend_from_slice(leaf.as_ref());
                }
            }
        }
    }
    let length = u32::try_from(out.len() - payload_at).unwrap_or(u32::MAX).to_be_bytes();
    out.iter_mut().skip(length_at).zip(length).for_each(|(to, from)| *to = from);
    let checksum = sha256(&[out.get(start..).unwrap_or_default()]);
    out.extend(checksum);
    out.resize(start + (out.len() - start).next_multiple_of(BLOCK), 0);
    checksum
}

fn put_u16(out: &mut Vec<u8>, value: usize) {
    out.extend(u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes());
}

fn put_head(out: &mut Vec<u8>, head: &Head) {
    put_u16(out, head.log.len());
    out.extend_from_slice(head.log.as_bytes());
    out.extend(head.size.to_be_bytes());
    out.extend(head.root);
}

/// Reads the frame at the start of `bytes`, which may go on behind it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameFault> {
    let mut input = Input(bytes);
    if input.array::<8>().ok_or(FrameFault::Absent)? != MAGIC {
        return Err(FrameFault::Absent);
    }
    let [kind] = input.array().ok_or(FrameFault::Torn)?;
    let epoch = input.u64().ok_or(FrameFault::Torn)?;
    let number = input.u64().ok_or(FrameFault::Torn)?;
    let length = input.u32().ok_or(FrameFault::Torn)? as usize;
    let previous = input.array().ok_or(FrameFault::Torn)?;
    if length > LARGEST_PAYLOAD {
        return Err(FrameFault::Torn);
    }
    let payload = input.take(length).ok_or(FrameFault::Torn)?;
    let checksum: Hash = input.array().ok_or(FrameFault::Torn)?;
    if sha256(&[bytes.get(..HEADER + length).ok_or(FrameFault::Torn)?]) != checksum {
        return Err(FrameFault::Torn);
    }
    let body = read_body(kind, payload).ok_or(FrameFault::Unknown)?;
    let length = (HEADER + length + CHECKSUM).next_multiple_of(BLOCK);
    Ok(Frame { place: Place { epoch, number, previous }, body, checksum, length })
}

/// The number of the first whole frame of `epoch` at or behind block-aligned `from`, numbered at least `least`: proof
/// that what stands before it was committed.
pub(crate) fn find_later(segment: &[u8], from: usize, epoch: u64, least: u64) -> Option<u64> {
    (from.next_multiple_of(BLOCK)..segment.len()).step_by(BLOCK).find_map(|at| {
        let rest = segment.get(at..)?;
        // Looking at the epoch first spares hashing what an earlier use of the segment left.
        let frame = (rest.get(9..17)? == epoch.to_be_bytes()).then(|| decode(rest).ok()).flatten()?;
        (frame.place.epoch == epoch && frame.place.number >= least).then_some(frame.place.number)
    })
}

fn read_body(kind: u8, payload: &[u8]) -> Option<Body<&[u8]>> {
    let mut input = Input(payload);
    let count = input.u16()?;
    let body = match kind {
        0 => Body::Base((0..count).map(|_| input.head()).collect::<Option<_>>()?),
        1 => Body::Records((0..count).map(|_| input.section()).collect::<Option<_>>()?),
        2 => Body::Close((0..count).map(|_| input.head()).collect::<Option<_>>()?),
        _ => return None,
    };
    input.0.is_empty().then_some(body)
}

/// A reader of big-endian fields that never goes past the end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn head(&mut self) -> Option<Head> {
        let length = usize::from(self.u16()?);
        let log = std::str::from_utf8(self.take(length)?).ok().filter(|name| is_log_name(name))?.to_owned();
        Some(Head { log, size: self.u64()?, root: self.array()? })
    }

    fn section(&mut self) -> Option<Section<&'a [u8]>> {
        let head = self.head()?;
        let first = self.u64()?;
        let count = self.u32()?;
        let mut leaves = Vec::new();
        for _ in 0..count {
            let length = usize::from(self.u16()?);
            leaves.push(self.take(length)?);
        }
        (first.checked_add(u64::from(count))? == head.size).then_some(Section { first, leaves, head })
    }
}

/// Whether `name` may name a log: it becomes a directory.
pub(crate) fn is_log_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_LOG_NAME
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !matches!(name, "journal" | "lock")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A segment's beginning, for the corpus.
    pub(crate) fn two_frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        let previous = encode(&place(1, 0), &Body::<&[u8]>::Base(vec![head(0)]), &mut bytes);
        encode(&Place { epoch: 1, number: 1, previous }, &records(0, &[b"one", b"two"]), &mut bytes);
        bytes
    }

    fn head(size: u64) -> Head {
        Head { log: "ca-2026".into(), size, root: [7; 32] }
    }

    fn place(epoch: u64, number: u64) -> Place {
        Place { epoch, number, previous: [3; 32] }
    }

    fn records(first: u64, leaves: &[&'static [u8]]) -> Body<&'static [u8]> {
        let head = head(first + leaves.len() as u64);
        Body::Records(vec![Section { first, leaves: leaves.to_vec(), head }])
    }

    #[test]
    fn every_kind_of_frame_comes_back() {
        for body in [Body::Base(vec![head(0)]), records(5, &[b"one", b"", b"three"]), Body::Close(vec![head(8)])] {
            let mut bytes = Vec::new();
            let checksum = encode(&place(4, 9), &body, &mut bytes);
            assert_eq!(bytes.len(), encoded_length(&body));
            let frame = decode(&bytes).unwrap();
            assert_eq!(frame, Frame { place: place(4, 9), body, checksum, length: bytes.len() });
        }
    }

    #[test]
    fn no_cut_and_no_flipped_bit_passes() {
        let mut bytes = Vec::new();
        encode(&place(1, 1), &records(0, &[b"a record", b"another"]), &mut bytes);
        let whole = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for cut in 0..whole {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..whole * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_later_frame_of_this_epoch_is_found_and_one_of_an_old_copy_is_not() {
        let mut segment = vec![0; BLOCK];
        encode(&place(2, 3), &records(0, &[b"old copy"]), &mut segment);
        assert_eq!(find_later(&segment, 1, 3, 3), None);
        encode(&place(3, 5), &records(0, &[b"new"]), &mut segment);
        assert_eq!(find_later(&segment, 1, 3, 5), Some(5));
        assert_eq!(find_later(&segment, 1, 3, 6), None);
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", "..", "a/b", "journal", "A", &"a".repeat(65)] {
            assert!(!is_log_name(name), "{name}");
        }
        assert!(is_log_name("ca-2026"));
    }
}
