//! The rules of the house that no compiler knows: layering, `unsafe` in one place, files of bounded size,
//! documents that name what is there.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use ringcast::logic::code::Code;

/// The layers from top to bottom. A module imports only from those below it.
const LAYERS: [&str; 13] = [
    "cli",
    "bench",
    "server",
    "control",
    "backplane",
    "shard",
    "hub",
    "figures",
    "link",
    "feed",
    "config",
    "logic",
    "sys",
];
/// Layers that stand beside each other: neither imports from the other.
const APART: [(&str, &str); 5] =
    [("logic", "sys"), ("shard", "hub"), ("hub", "shard"), ("backplane", "shard"), ("backplane", "hub")];
/// A file longer than this (tests left out) has a part that wants its own name.
const LINES_MAX: usize = 500;
/// A function longer than this has a step that wants its own name.
const FUNCTION_LINES_MAX: usize = 60;
/// The modules of a shard that every part may use: the two tables, what each part is given, and functions over these. The
/// other modules are parts, which know none of each other, and the turn and the driver, which no part knows.
const SHARD_GROUND: [&str; 26] = [
    "account",
    "admission",
    "batch",
    "closing",
    "connection",
    "context",
    "frames",
    "h2",
    "identities",
    "io",
    "lag",
    "lanes",
    "limits",
    "merge",
    "next",
    "opening",
    "polls",
    "rates",
    "refusals",
    "settings",
    "slots",
    "subscriptions",
    "tests",
    "tls",
    "unused",
    "waiting",
];
/// The modules of the hub that its parts may use: values without a state of their own, and what turn and driver tell each
/// other. The other modules are parts, which know none of each other.
const HUB_GROUND: [&str; 8] = ["answers", "census", "looks", "outbox", "roles", "routes", "state_file", "watch"];
/// The only files that may know the runtime.
const RUNTIME_FILES: [&str; 2] = ["shard/driver.rs", "hub/driver.rs"];

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

/// Whether a file is a module of tests.
fn is_test(path: &Path) -> bool {
    path.components().any(|part| ["tests", "tests.rs"].contains(&part.as_os_str().to_str().unwrap()))
}

fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

#[test]
fn modules_import_only_from_below() {
    for (path, text) in sources(&root().join("src")) {
        let Some(own) = layer(&path).filter(|_| !is_test(path.strip_prefix(root()).unwrap())) else { continue };
        let rank = |layer: &str| LAYERS.iter().position(|other| *other == layer);
        // Tests may use what they like.
        for (number, line) in without_tests(&text).lines().enumerate() {
            for part in line.split("crate::").skip(1) {
                let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some(other) = rank(&name) else { continue };
                let is_below = Some(other) >= rank(own);
                let is_apart = APART.contains(&(own, name.as_str()));
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

/// The functions of a formatted source: each with its first line and its length.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let words: Vec<&str> = code.split([' ', '(']).collect();
        let is_function = words.iter().position(|word| *word == "fn").is_some_and(|place| {
            words[..place]
                .iter()
                .all(|word| ["pub", "super)", "crate)", "async", "const", "unsafe", "in"].contains(word))
        });
        if !is_function || line.ends_with('}') {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[number..].iter().position(|other| {
            *other == end || other.trim_end().ends_with(';') && other.len() - other.trim_start().len() == indent
        });
        found.push((number + 1, length.unwrap_or(0) + 1));
    }
    found
}

#[test]
fn functions_are_found_with_their_length() {
    let text =
        "fn a() {\n    1\n}\n\nimpl B {\n    pub(super) async fn c(\n        d: u8,\n    ) {\n        d\n    }\n}\n";
    assert_eq!(functions(text), [(1, 3), (6, 5)]);
}

#[test]
fn functions_fit_in_a_head() {
    for (path, text) in sources(&root().join("src")) {
        for (line, length) in functions(without_tests(&text)) {
            assert!(
                length <= FUNCTION_LINES_MAX,
                "{}:{line}: a function has {length} lines: look for the step that wants its own name",
                path.display()
            );
        }
    }
}

/// The documentation of each function, type and trait of a formatted source: its line, its text, and whether the item is
/// a function.
fn documented_items(text: &str) -> Vec<(usize, String, bool)> {
    let mut found = Vec::new();
    let mut documentation: Option<(usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if let Some(words) = code.strip_prefix("///") {
            let (_, text) = documentation.get_or_insert_with(|| (number + 1, String::new()));
            text.push_str(words);
        } else if !code.starts_with("#[") {
            let mut words = code.split([' ', '(', '<', ';']).skip_while(|word| {
                ["pub", "super)", "crate)", "in", "async", "const", "unsafe"].contains(word) || word.ends_with("::hub)")
            });
            let kind = words.next().filter(|kind| ["fn", "struct", "enum", "trait"].contains(kind));
            found.extend(documentation.take().zip(kind).map(|((line, text), kind)| (line, text, kind == "fn")));
        }
    }
    found
}

/// Whether documentation is a fragment: too few words to say what its item is. A code span says that by itself.
fn is_fragment(text: &str, is_function: bool) -> bool {
    let words_min = if is_function { 3 } else { 4 };
    !text.contains('`') && text.split_whitespace().count() < words_min
}

#[test]
fn fragments_of_documentation_are_found() {
    let text = "/// The thing.\n#[derive(Debug)]\npub(super) struct A {\n    /// Bytes.\n    b: u8,\n}\n\n/// Its\n/// c.\nfn c() {}\n";
    assert_eq!(documented_items(text), [(1, " The thing.".to_owned(), false), (8, " Its c.".to_owned(), true)]);
    assert!(is_fragment("All of it.", false) && is_fragment("Its name.", true));
    assert!(!is_fragment("The slot of one connection.", false) && !is_fragment("Writes a frame.", true));
    assert!(!is_fragment("`bench fanout`.", false));
}

#[test]
fn documentation_is_no_fragment() {
    let mut fragments = String::new();
    for (path, text) in sources(&root().join("src")) {
        for (line, text, _) in documented_items(&text).iter().filter(|(_, text, is_fn)| is_fragment(text, *is_fn)) {
            fragments.push_str(&format!("\n{}:{line}:{text}", path.display()));
        }
    }
    assert!(fragments.is_empty(), "this documentation does not say what its items are:{fragments}");
}

#[test]
fn documentation_names_its_subject_first() {
    for (path, text) in sources(&root().join("src")) {
        let mut is_first = true;
        for (number, line) in text.lines().enumerate() {
            let words = line.trim_start();
            let words = words.strip_prefix("///").or_else(|| words.strip_prefix("//!"));
            let riddle = words.and_then(|words| words.split_whitespace().next()).filter(|word| {
                ["Who", "Whom", "Whose", "Whoever", "Whatever", "Such", "Somebody", "Nobody"].contains(word)
            });
            let place = format!("{}:{}", path.display(), number + 1);
            assert!(!is_first || riddle.is_none(), "{place}: name the subject instead of {riddle:?}");
            is_first = words.is_none();
        }
    }
}

/// The modules beside it that a file names.
fn neighbours_named(text: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    text.lines().filter_map(|line| line.strip_prefix("use super::")).map(name).collect()
}

#[test]
fn parts_of_a_shard_know_no_other_part() {
    let folder = root().join("src/shard");
    let modules: Vec<PathBuf> = sources(&folder).into_iter().map(|(path, _)| path).collect();
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let is_part = |name: &str| {
        !SHARD_GROUND.contains(&name) && modules.iter().any(|path| path.parent() == Some(&folder) && stem(path) == name)
    };
    for (path, text) in sources(&folder) {
        let name = stem(&path);
        if path.parent() != Some(&folder) || ["mod", "driver", "tests"].contains(&name.as_str()) {
            continue;
        }
        for other in neighbours_named(without_tests(&text)) {
            assert!(!is_part(&other), "{}: {name} must not know {other}; only the turn knows parts", path.display());
            assert!(other != "turn", "{}: {name} must not know the turn", path.display());
        }
    }
}

#[test]
fn a_shards_state_is_changed_in_one_place() {
    let mut places = Vec::new();
    for (path, text) in sources(&root().join("src/shard")) {
        let count = without_tests(&text).lines().filter(|line| line.starts_with("impl Shard ")).count();
        places.extend(std::iter::repeat_n(path.strip_prefix(root()).unwrap().to_owned(), count));
    }
    assert_eq!(places, [PathBuf::from("src/shard/turn/mod.rs")]);
}

#[test]
fn parts_of_the_hub_know_no_other_part() {
    let folder = root().join("src/hub");
    for (path, text) in sources(&folder) {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        // The module, the driver and the bare hub hold the core; files below it are the core.
        if path.parent() != Some(&folder) || ["mod", "driver", "bare"].contains(&name.as_str()) {
            continue;
        }
        for other in neighbours_named(without_tests(&text)) {
            let is_known = HUB_GROUND.contains(&other.as_str());
            assert!(is_known, "{}: {name} must not know {other}; only the core knows parts", path.display());
        }
    }
}

#[test]
fn the_hubs_state_is_changed_in_its_core_alone() {
    for (path, text) in sources(&root().join("src/hub")) {
        let is_core = path.starts_with(root().join("src/hub/core"));
        let has = without_tests(&text).lines().any(|line| line.starts_with("impl Core "));
        assert!(!has || is_core, "{} changes the core's state from outside", path.display());
    }
}

#[test]
fn the_runtime_is_known_to_the_drivers_alone() {
    for (path, text) in sources(&root().join("src")) {
        let relative = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
        let uses = without_tests(&text).lines().any(|line| line.split("//").next().unwrap().contains("monoio::"));
        assert!(
            !uses || RUNTIME_FILES.contains(&relative.as_str()),
            "{relative} uses the runtime; only the drivers may"
        );
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
            _ if is_test(relative) => continue,
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

/// The code that a call of an error's constructor names.
fn code_of(call: &str) -> Option<&str> {
    let (before, rest) = call.split_once('"')?;
    let is_literal = before.len() < 60 && before.chars().all(|c| c.is_alphanumeric() || " \n_:,".contains(c));
    is_literal.then(|| rest.split('"').next().unwrap())
}

#[test]
fn every_code_is_of_the_vocabulary() {
    let mut found = 0;
    for (path, text) in sources(&root().join("src")) {
        let text = without_tests(&text);
        for marker in ["FeedError::new(", "ApiError::new("] {
            for name in text.split(marker).skip(1).filter_map(code_of) {
                assert!(Code::from_name(name).is_some(), "{}: the code {name} is not in logic::code", path.display());
                found += 1;
            }
        }
    }
    assert!(found > 40, "only {found} codes were found");
}
