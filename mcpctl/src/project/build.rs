//! Sources into a component: the interface that the plugin asks for, its own build command, and the wrapping of what that makes.

use std::{fs, process::Stdio};

use protocol::{
    Problem,
    error::Code,
    manifest::{Import, MAX_COMPONENT},
};
use tokio::process::Command;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::{COMPONENT, Project};
use crate::input;

/// The plugin interface, with a world that imports all of it.
const INTERFACE: &str = include_str!("../../../protocol/wit/plugin.wit");
/// The world's name.
const WORLD: &str = "plugin";
/// What a core module begins with.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// Builds the plugin, and leaves the component where [`Project::component`] says. What its build command prints goes to stderr.
pub(crate) async fn build(project: &Project) -> Result<(), Problem> {
    let interface = interface(&project.settings.imports);
    write_interface(project, &interface)?;
    run(project).await?;
    let output = project.dir.join(&project.settings.build.output);
    let made = input::read(&output, MAX_COMPONENT).map_err(|problem| match problem.code {
        Code::NotFound => problem.hint("[build] output in plugin.toml names what the build command makes"),
        _ => problem,
    })?;
    let component = if made.starts_with(COMPONENT) {
        made
    } else if made.starts_with(MODULE) {
        let invalid = |reason| Problem::new(Code::InvalidPlugin, format!("{} makes no component: {reason}", output.display()));
        componentize(made, &interface).map_err(invalid)?
    } else {
        return Err(Problem::new(Code::InvalidPlugin, format!("{} is no WebAssembly", output.display())));
    };
    input::write(&project.component(), &component)
}

async fn run(project: &Project) -> Result<(), Problem> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(&project.settings.build.command).current_dir(&project.dir);
    // Whoever reads our answer as JSON doesn't want a compiler's remarks in it.
    command.stdin(Stdio::null()).stdout(std::io::stderr()).kill_on_drop(true);
    let failed = |detail: String| Problem::new(Code::InvalidPlugin, detail);
    let status = command.status().await.map_err(|error| failed(format!("can't run sh: {error}")))?;
    match (status.success(), status.code()) {
        (true, _) => Ok(()),
        (false, Some(127)) => Err(failed(format!("the build needs a program that isn't here: {}", project.settings.build.command))
            .hint("plugin.toml says above its build command what it needs")),
        (false, _) => Err(failed(format!("the build failed ({status}): {}", project.settings.build.command))),
    }
}

/// Leaves the file alone if it is the same: some builds go by its time.
fn write_interface(project: &Project, interface: &str) -> Result<(), Problem> {
    let dir = project.dir.join("wit");
    let failed = |error| Problem::new(Code::InvalidRequest, format!("can't make {}: {error}", dir.display()));
    fs::create_dir_all(&dir).map_err(failed)?;
    let path = dir.join("plugin.wit");
    match fs::read_to_string(&path) {
        Ok(there) if there == interface => Ok(()),
        _ => input::write(&path, interface.as_bytes()),
    }
}

/// The interface, with a world that imports no more than these: what builds for other languages import, they import whole.
fn interface(imports: &[Import]) -> String {
    let unwanted = |line: &str| Import::ALL.iter().any(|one| !imports.contains(one) && line.trim() == format!("import {};", one.as_str()));
    INTERFACE.lines().filter(|line| !unwanted(line)).flat_map(|line| [line, "\n"]).collect()
}

/// Makes a component of a core module that follows the canonical ABI of the interface's world.
fn componentize(mut module: Vec<u8>, interface: &str) -> Result<Vec<u8>, String> {
    let said = |error: anyhow::Error| format!("{error:#}");
    // What wit-bindgen made says itself which world it is of.
    if !describes_itself(&module) {
        let mut resolve = Resolve::default();
        let package = resolve.push_source("plugin.wit", interface).map_err(|error| error.to_string())?;
        let world = resolve.select_world(&[package], Some(WORLD)).map_err(said)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false).map_err(said)?;
    }
    let encoded = ComponentEncoder::default().validate(true).module(&module).and_then(|encoder| encoder.encode());
    encoded.map_err(said)
}

fn describes_itself(module: &[u8]) -> bool {
    let marker = b"component-type";
    module.windows(marker.len()).any(|window| window == marker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_imports_what_is_asked_for() {
        assert_eq!(interface(&Import::ALL), INTERFACE);
        let little = interface(&[Import::Log]);
        assert!(little.contains("    import log;\n") && !little.contains("import state;"), "{little}");
        assert!(Resolve::default().push_source("plugin.wit", &little).is_ok());
    }

    #[test]
    fn a_module_of_another_interface_is_refused() {
        let refused = componentize(MODULE.to_vec(), INTERFACE).expect_err("it exports nothing");
        assert!(refused.contains("describe"), "{refused}");
    }
}
