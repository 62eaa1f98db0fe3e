//! The rules of the house that no compiler knows: layering, `unsafe` in one place, files of bounded size,
//! documents that name what is there.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// The layers from top to bottom. A module imports only from those below it.
const LAYERS: [&str; 12] =
    ["cli", "bench", "server", "control", "shard", "hub", "figures", "link", "feed", "config", "logic", "sys"];
/// A file longer than this (tests left out) has a part that wants its own name.
const LINES_MAX: usize = 500;

fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).into()
}

/// The layer that a file belongs to.
fn layer(path: &Path) -> Option<&'static str> {
    let relative = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap().to_string();
    LAYERS.into_iter().find(|layer| *layer == first)
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

#[test]
fn modules_import_only_from_below() {
    for (path, text) in sources(&root().join("src")) {
        let Some(own) = layer(&path) else { continue };
        let rank = |layer: &str| LAYERS.iter().position(|other| *other == layer);
        // Tests may use what they like.
        for (number, line) in without_tests(&text).lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = rank(&name) else { continue };
                let is_below = Some(other) >= rank(own);
                let is_apart = own == "logic" && name == "sys";
                assert!(
                    is_below && !is_apart,
                    "{}:{}: {own} must not import from {name}; the layers are {LAYERS:?}",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn every_module_is_a_layer() {
    let library = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for line in library.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let name = line.trim_end_matches(';');
        assert!(LAYERS.contains(&name), "src/lib.rs has the module {name}, which is no layer");
    }
}

#[test]
fn logic_knows_no_clock_no_socket_and_no_thread() {
    for (path, text) in sources(&root().join("src/logic")) {
        for forbidden in
            ["std::net", "std::os", "std::thread", "std::fs", "Instant::now", "SystemTime", "fastrand", "libc::"]
        {
            assert!(!without_tests(&text).contains(forbidden), "{} uses {forbidden}", path.display());
        }
    }
}

#[test]
fn unsafe_lives_in_sys_alone_and_says_why() {
    for (path, text) in sources(&root().join("src")) {
        let is_sys = layer(&path) == Some("sys");
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let is_unsafe = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
            assert!(!is_unsafe || is_sys, "{}:{}: unsafe outside of src/sys", path.display(), number + 1);
        }
    }
}

#[test]
fn files_fit_in_a_head() {
    for (path, text) in sources(&root().join("src")) {
        let lines = without_tests(&text).lines().count();
        assert!(lines <= LINES_MAX, "{} has {lines} lines: look for the part that wants its own name", path.display());
    }
}

#[test]
fn the_map_names_every_module() {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    for (path, _) in sources(&root().join("src")) {
        let relative = path.strip_prefix(root().join("src")).unwrap();
        let name = match relative.file_stem().unwrap().to_str().unwrap() {
            "mod" => relative.parent().unwrap().file_name().unwrap().to_str().unwrap(),
            "lib" | "main" | "tests" => continue,
            name => name,
        };
        assert!(map.contains(name), "ARCHITECTURE.md does not name {}", relative.display());
    }
}

#[test]
fn documents_link_only_to_what_is_there() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    documents.extend(std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for document in documents.iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.starts_with('#') {
                continue;
            }
            let target = document.parent().unwrap().join(link.split('#').next().unwrap());
            assert!(target.exists(), "{} links to {link}", document.display());
        }
    }
}
