//! What is checked of a component before any compiler sees it.
//!
//! ```text
//! bytes -> size, digest, interface (manifest) -> is it a component? -> counts -> its imports against the manifest's
//! ```
//! A small file can cost a compiler a gigabyte (100,000 empty functions are 2 MB), so everything is counted first.

use protocol::manifest::{INTERFACE, Import, MAX_COMPONENT, Manifest};
use wasmparser::{ComponentTypeRef, Encoding, Parser, Payload, TypeBounds};

use crate::error::Error;

/// Functions in all modules of a component: twice those of a JavaScript engine, a third of what floods a compiler.
pub(crate) const MAX_FUNCTIONS: u64 = 65_536;
/// Core modules and components inside a component; Python's have 38.
const MAX_NESTED: u64 = 128;
/// Exports of the component itself; an honest plugin has two or three.
const MAX_EXPORTS: u64 = 64;
/// Exports of all core modules; dynamically linked languages export thousands.
const MAX_CORE_EXPORTS: u64 = 65_536;
/// Types, instances, aliases and canonical functions in all components.
const MAX_DEFINITIONS: u64 = 65_536;
/// The largest function body; a register allocator takes more than linear time over it.
const MAX_BODY: u64 = 2 << 20;

/// Checks the component against its manifest and the limits above, with at most so many functions.
pub(crate) fn inspect(component: &[u8], manifest: &Manifest, max_functions: u64) -> Result<(), Error> {
    within("bytes", component.len() as u64, MAX_COMPONENT as u64)?;
    if manifest.size != component.len() as u64 {
        return Err(Error::Size { stated: manifest.size, found: component.len() as u64 });
    }
    if !manifest.component.matches(component) {
        return Err(Error::Digest { stated: manifest.component });
    }
    if manifest.interface != INTERFACE {
        return Err(Error::Interface { found: shortened(&manifest.interface) });
    }
    let imports = Census::take(component, max_functions)?;
    imports.iter().try_for_each(|name| permitted(name, manifest))
}

fn within(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found <= limit { Ok(()) } else { Err(Error::TooLarge { what, found, limit }) }
}

/// Names come from outside; an error quotes at most this much of one.
fn shortened(name: &str) -> String {
    name.chars().take(120).collect()
}

/// Whether the manifest asks for what the component imports.
fn permitted(name: &str, manifest: &Manifest) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::Import { name: shortened(name), reason });
    let (package, version) = INTERFACE.split_once('@').expect("the interface names its version");
    let Some(rest) = name.strip_prefix(package).and_then(|rest| rest.strip_prefix('/')) else {
        return refuse(match name.starts_with("wasi:") {
            true => "a plugin has no WASI; build it for wasm32-unknown-unknown, or stub WASI".into(),
            false => format!("only interfaces of {INTERFACE} can be imported"),
        });
    };
    let (interface, found) = rest.split_once('@').unwrap_or((rest, "none"));
    if found != version {
        return refuse(format!("this node hosts version {version} of the plugin interface, not {found}"));
    }
    if interface == "types" {
        return Ok(()); // names for the exports' types, nothing that runs
    }
    match Import::ALL.into_iter().find(|import| import.as_str() == interface) {
        None => refuse(format!("{INTERFACE} has no such interface")),
        Some(import) if manifest.imports.contains(&import) => Ok(()),
        Some(_) => refuse(format!("the manifest doesn't ask for it; add \"{interface}\" to its imports")),
    }
}

/// Counts over everything in a component.
#[derive(Default)]
struct Census {
    depth: u32,
    nested: u64,
    functions: u64,
    max_functions: u64,
    exports: u64,
    core_exports: u64,
    definitions: u64,
    imports: Vec<String>,
}

impl Census {
    /// Walks a component, and returns the names of its imports.
    fn take(component: &[u8], max_functions: u64) -> Result<Vec<String>, Error> {
        if component.get(..4) != Some(b"\0asm") {
            return Err(Error::NotComponent("it is no WebAssembly at all".into()));
        }
        if Parser::is_core_wasm(component) {
            return Err(Error::NotComponent("it is a core module; make a component of it with `wasm-tools component new`".into()));
        }
        let mut census = Self { max_functions, ..Self::default() };
        for payload in Parser::new(0).parse_all(component) {
            census.count(payload.map_err(malformed)?)?;
        }
        Ok(census.imports)
    }

    fn count(&mut self, payload: Payload<'_>) -> Result<(), Error> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.depth += 1;
                if self.depth == 1 && encoding != Encoding::Component {
                    return Err(Error::NotComponent("it is a core module".into()));
                }
                add(&mut self.nested, 1, "nested modules", MAX_NESTED)?;
            }
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::FunctionSection(section) => add(&mut self.functions, section.count(), "functions", self.max_functions)?,
            Payload::ExportSection(section) => add(&mut self.core_exports, section.count(), "core exports", MAX_CORE_EXPORTS)?,
            Payload::ImportSection(section) => self.define(section.count())?,
            Payload::TypeSection(section) => self.define(section.count())?,
            Payload::ComponentTypeSection(section) => self.define(section.count())?,
            Payload::CoreTypeSection(section) => self.define(section.count())?,
            Payload::InstanceSection(section) => self.define(section.count())?,
            Payload::ComponentInstanceSection(section) => self.define(section.count())?,
            Payload::ComponentAliasSection(section) => self.define(section.count())?,
            Payload::ComponentCanonicalSection(section) => self.define(section.count())?,
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                within("bytes in one function", range.end - range.start, MAX_BODY)?;
            }
            Payload::ComponentExportSection(section) if self.depth == 1 => {
                add(&mut self.exports, section.count(), "exports", MAX_EXPORTS)?;
            }
            Payload::ComponentImportSection(section) if self.depth == 1 => {
                self.define(section.count())?;
                for import in section {
                    let import = import.map_err(malformed)?;
                    // A world that uses an interface's type imports a name equal to it: nothing that runs.
                    if !matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_))) {
                        self.imports.push(import.name.name.to_owned());
                    }
                }
            }
            _ => {} // memories, globals, data: bounded by the file's size and by the memory limit of each call
        }
        Ok(())
    }

    fn define(&mut self, count: u32) -> Result<(), Error> {
        add(&mut self.definitions, count, "definitions", MAX_DEFINITIONS)
    }
}

fn add(sum: &mut u64, count: u32, what: &'static str, limit: u64) -> Result<(), Error> {
    *sum += u64::from(count);
    within(what, *sum, limit)
}

fn malformed(error: wasmparser::BinaryReaderError) -> Error {
    Error::NotComponent(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn verdict(component: &[u8], imports: &[Import]) -> String {
        let manifest = fixture::manifest("misbehaving", component, imports);
        inspect(component, &manifest, MAX_FUNCTIONS).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn only_components_pass() {
        let core = wat::parse_str("(module)").expect("wat");
        assert!(verdict(&core, &[]).contains("core module"), "{}", verdict(&core, &[]));
        assert!(verdict(b"#!/bin/sh\n", &[]).contains("no WebAssembly"));
        let fine = fixture::misbehaving();
        assert!(verdict(&fine[..fine.len() / 2], &[Import::State]).contains("isn't a component"), "cut short");
        assert_eq!(verdict(&fine, &[Import::State]), "fine");
    }

    #[test]
    fn the_manifest_must_be_of_this_component() {
        let fine = fixture::misbehaving();
        let mut manifest = fixture::manifest("misbehaving", &fine, &[Import::State]);
        let mut other = fine.clone();
        *other.last_mut().expect("bytes") ^= 1;
        assert!(matches!(inspect(&other, &manifest, MAX_FUNCTIONS), Err(Error::Digest { .. })));
        assert!(matches!(inspect(&fine[1..], &manifest, MAX_FUNCTIONS), Err(Error::Size { .. })));
        manifest.interface = "mcp-zero:plugin@0.2.0".into();
        assert!(matches!(inspect(&fine, &manifest, MAX_FUNCTIONS), Err(Error::Interface { .. })));
    }

    #[test]
    fn imports_are_held_against_the_manifest() {
        assert!(verdict(&fixture::misbehaving(), &[Import::Log]).contains("add \"state\""));
        let importing = |name: &str| {
            let text = format!("(component (import \"{name}\" (instance)))");
            verdict(&wat::parse_str(text).expect("wat"), &Import::ALL)
        };
        assert!(importing("wasi:cli/environment@0.2.0").contains("no WASI"));
        assert!(importing("mcp-zero:plugin/state@0.9.0").contains("not 0.9.0"));
        assert!(importing("mcp-zero:plugin/mesh@0.1.0").contains("no such interface"));
        assert!(importing("other:thing/state@0.1.0").contains("only interfaces of"));
        assert_eq!(importing("mcp-zero:plugin/clock@0.1.0"), "fine");
    }

    #[test]
    fn bombs_are_refused_before_compiling() {
        let many = format!("(component (core module {}))", "(func)".repeat(100_000));
        assert!(verdict(&wat::parse_str(many).expect("wat"), &[]).contains("100000 functions"));
        let nested = format!("(component {})", "(core module)".repeat(200));
        assert!(verdict(&wat::parse_str(nested).expect("wat"), &[]).contains("nested modules"));
        let long = format!("(component (core module (func {})))", "nop ".repeat(3 << 20));
        assert!(verdict(&wat::parse_str(long).expect("wat"), &[]).contains("in one function"));
    }
}
