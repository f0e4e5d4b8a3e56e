//! File and line for a guest's backtrace, from the debug information in its file.
//!
//! Never used during a call, because reading DWARF costs milliseconds of CPU per panic. A backtrace
//! contains function names and offsets; the offsets are resolved here later.

use std::ops::Range;
use std::sync::Arc;

use addr2line::Context;
use gimli::{EndianArcSlice, LittleEndian};
use parking_lot::Mutex;
use wasmparser::{Parser, Payload};

type Slice = EndianArcSlice<LittleEndian>;

pub struct Symbols {
    modules: Vec<Module>,
}

/// A core module inside the component.
struct Module {
    /// The module's bytes in the file. A frame's offset counts from the start of the file.
    bytes: Range<usize>,
    /// Addresses in DWARF count from here.
    code_start: usize,
    /// Reads lazily, so it must not be used by two threads at once.
    lines: Mutex<Context<Slice>>,
}

#[derive(Default)]
struct Parts {
    bytes: Range<usize>,
    code_start: usize,
    debug: Vec<(String, Arc<[u8]>)>,
}

impl Symbols {
    /// `None` if the file has no debug information that can be read.
    pub fn of(component: &[u8]) -> Option<Self> {
        let mut finished = Vec::new();
        let mut open: Vec<Parts> = vec![Parts::default()];
        for payload in Parser::new(0).parse_all(component) {
            match payload.ok()? {
                Payload::ModuleSection {
                    unchecked_range, ..
                }
                | Payload::ComponentSection {
                    unchecked_range, ..
                } => {
                    open.push(Parts {
                        bytes: unchecked_range,
                        ..Parts::default()
                    });
                }
                Payload::CodeSectionStart { range, .. } => {
                    open.last_mut()?.code_start = range.start
                }
                Payload::CustomSection(section) if section.name().starts_with(".debug_") => {
                    open.last_mut()?
                        .debug
                        .push((section.name().to_owned(), section.data().into()));
                }
                Payload::End(_) => finished.extend(open.pop()),
                _ => {}
            }
        }
        let modules: Vec<Module> = finished.into_iter().filter_map(Parts::module).collect();
        (!modules.is_empty()).then_some(Self { modules })
    }

    /// Adds file and line to each frame where they are known. For the format, see `fault::frames`.
    pub fn resolve(&self, backtrace: &str) -> String {
        let lines: Vec<String> = backtrace
            .lines()
            .map(|line| self.line(line).unwrap_or_else(|| line.to_owned()))
            .collect();
        lines.join("\n")
    }

    fn line(&self, line: &str) -> Option<String> {
        let (name, offset) = line.rsplit_once(" (+0x")?;
        let offset = usize::from_str_radix(offset.strip_suffix(')')?, 16).ok()?;
        let module = self
            .modules
            .iter()
            .find(|module| module.bytes.contains(&offset))?;
        let address = offset.checked_sub(module.code_start)? as u64;
        let lines = module.lines.lock();
        let location = lines.find_location(address).ok()??;
        Some(format!("{name} ({}:{})", location.file?, location.line?))
    }
}

impl Parts {
    fn module(self) -> Option<Module> {
        if self.debug.is_empty() {
            return None;
        }
        let section = |id: gimli::SectionId| -> Result<Slice, gimli::Error> {
            let data = self
                .debug
                .iter()
                .find(|(name, _)| name == id.name())
                .map(|(_, data)| Arc::clone(data));
            Ok(Slice::new(data.unwrap_or_default(), LittleEndian))
        };
        let dwarf = gimli::Dwarf::load(section).ok()?;
        Some(Module {
            bytes: self.bytes,
            code_start: self.code_start,
            lines: Mutex::new(Context::from_dwarf(dwarf).ok()?),
        })
    }
}
