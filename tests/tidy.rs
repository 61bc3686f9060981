//! The building stays as it is drawn: floors use only floors below, and every module says what it is for.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `src/` and their floor.
const FLOORS: &[(&str, u32)] = &[
    ("domain", 0),
    ("data", 1),
    ("models", 1),
    ("training", 2),
    ("store", 3),
    ("jobs", 4),
    ("serving", 4),
    ("http", 5),
    ("config", 6),
    ("telemetry", 6),
    ("app", 7),
    ("cli", 8),
];

/// Words that belong to some modules only.
const HOMES: &[(&str, &[&str])] = &[
    ("sqlx::", &["store"]),
    ("axum::", &["http"]),
    ("tch::", &["models", "training", "serving", "jobs"]),
    ("tokio::", &["store", "jobs", "serving", "http", "app", "cli"]),
    ("clap::", &["config", "cli"]),
    ("StatusCode", &["http"]),
    ("anyhow::", &["config", "telemetry", "app", "cli", "jobs"]),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    assert!(files.len() > 40, "the sources were not found");
    files
        .into_iter()
        .map(|path| {
            let relative = path.strip_prefix(&root).unwrap().to_owned();
            let module =
                relative.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).unwrap();
            (module, relative, text)
        })
        .collect()
}

/// The part of a file that is not its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

fn floor(module: &str) -> Option<u32> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

#[test]
fn floors_use_only_floors_below() {
    let mut faults = Vec::new();
    for (module, path, text) in sources() {
        if matches!(module.as_str(), "lib" | "main") {
            continue;
        }
        let own = floor(&module).unwrap_or_else(|| panic!("{module} has no floor: add it to the table"));
        for used in without_tests(&text).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let below = floor(&used).is_some_and(|floor| floor < own);
            if used != module && !below && !used.is_empty() {
                faults.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_library_stays_in_its_rooms() {
    let mut faults = Vec::new();
    for (module, path, text) in sources() {
        for (word, homes) in HOMES {
            let code = without_tests(&text).lines().filter(|line| !line.trim_start().starts_with("//"));
            if module != "main" && !homes.contains(&module.as_str()) && code.into_iter().any(|line| line.contains(word))
            {
                faults.push(format!("{} speaks of {word}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, _, text)| !text.starts_with("//! ")).map(|(_, path, _)| path).collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn nothing_outside_models_names_a_family() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/models/mod.rs")).unwrap();
    // A row of the table reads `Vae => vae as "vae";`.
    let rows = table.lines().filter(|line| line.contains(" => ") && line.contains(" as \"") && line.ends_with(';'));
    let types: Vec<String> =
        rows.map(|line| format!("ModelSpec::{}", line.trim().split(' ').next().unwrap())).collect();
    assert_eq!(types.len(), latente::models::ModelSpec::FAMILIES.len(), "{types:?}");
    let mut faults = Vec::new();
    for (module, path, text) in sources().into_iter().filter(|(module, _, _)| module != "models") {
        for family in types.iter().filter(|family| without_tests(&text).contains(family.as_str())) {
            faults.push(format!("{module}: {} names {family}", path.display()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut faults = Vec::new();
    // A module of tests may be a file.
    for (_, path, text) in sources().into_iter().filter(|(_, path, _)| !path.ends_with("tests.rs")) {
        for (number, line) in without_tests(&text).lines().enumerate() {
            if line.contains(".unwrap()") {
                faults.push(format!("{}:{}", path.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_routes_are_all_on_one_screen() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/mod.rs")).unwrap();
    let listed = text.lines().filter_map(|line| line.trim().strip_prefix("// ")).collect::<Vec<_>>().join("\n");
    let document = serde_json::to_value(latente::http::document()).unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        let shown = path.rsplit('/').next().unwrap();
        assert!(
            listed.contains(path.as_str()) || listed.contains(&format!(", {shown}")),
            "{path} is not in the list of http/mod.rs"
        );
    }
}
