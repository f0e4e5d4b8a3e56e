//! All of the linear memory: stack, statics, heap, and what the heap has taken back and not used
//! again.

/// What each byte of a needle was changed by.
const MASK: u8 = 0x5a;

/// Made before the call: what it takes of the heap afterwards would cover what the call has given
/// back.
pub(crate) struct Search {
    needles: Vec<Vec<u8>>,
    /// Places of the needles by their first two bytes.
    beginning: Vec<Vec<usize>>,
    found: Vec<bool>,
}

impl Search {
    pub(crate) fn new(needles: Vec<Vec<u8>>) -> Self {
        let mut beginning: Vec<Vec<usize>> = vec![Vec::new(); 1 << 16];
        for (place, needle) in needles.iter().enumerate() {
            beginning[pair(needle[0] ^ MASK, needle[1] ^ MASK)].push(place);
        }
        Self {
            found: vec![false; needles.len()],
            needles,
            beginning,
        }
    }

    pub(crate) fn needle(&self, place: usize) -> &[u8] {
        &self.needles[place]
    }

    /// The places of the needles that are in memory.
    pub(crate) fn run(mut self) -> Vec<usize> {
        // Not from 0: that is no address in Rust.
        for at in 1..size() - 1 {
            for &place in &self.beginning[pair(byte(at), byte(at + 1))] {
                self.found[place] |= is_at(&self.needles[place], at);
            }
        }
        (0..self.found.len())
            .filter(|&place| self.found[place])
            .collect()
    }
}

fn pair(first: u8, second: u8) -> usize {
    usize::from(u16::from_be_bytes([first, second]))
}

fn is_at(needle: &[u8], at: usize) -> bool {
    at + needle.len() <= size()
        && needle
            .iter()
            .enumerate()
            .all(|(i, changed)| byte(at + i) ^ MASK == *changed)
}

fn size() -> usize {
    #[cfg(target_family = "wasm")]
    return core::arch::wasm32::memory_size(0) << 16;
    #[cfg(not(target_family = "wasm"))]
    return 2;
}

fn byte(at: usize) -> u8 {
    // SAFETY: `at` is within the linear memory, every byte of which may be read; volatile, since
    // nothing is known of what is there.
    unsafe { core::ptr::with_exposed_provenance::<u8>(at).read_volatile() }
}

/// Leaves the needle in memory that is free again.
pub(crate) fn free(needle: &[u8]) -> String {
    let plain: Vec<u8> = needle.iter().map(|byte| byte ^ MASK).collect();
    // Often: the heap writes its own notes over the beginning.
    drop(std::hint::black_box(plain.repeat(64)));
    drop(plain);
    "freed".into()
}
