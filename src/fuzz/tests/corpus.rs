//! Every script of the corpus passes, and the seeds among them are those that `seeds` makes. `IBID_FUZZ_SEEDS=write` writes them.

use ibid_fuzz::TARGETS;
use ibid_fuzz::seeds::seeds;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

#[test]
fn every_script_of_the_corpus_passes() {
    for (name, script) in TARGETS {
        let mut count = 0;
        for file in std::fs::read_dir(folder(name)).into_iter().flatten() {
            let file = file.expect("a folder that was opened can be read").path();
            let bytes = std::fs::read(&file).expect("a script can be read");
            println!("{}", file.display());
            ibid_fuzz::run(*script, &bytes);
            count += 1;
        }
        assert!(count > 0, "{name} has no corpus");
    }
}

#[test]
fn the_seeds_in_the_corpus_are_those_that_are_made() {
    let write = std::env::var_os("IBID_FUZZ_SEEDS").is_some_and(|value| value == "write");
    for (name, _) in TARGETS {
        let folder = folder(name);
        let made = seeds(name);
        if write {
            std::fs::create_dir_all(&folder).expect("the corpus can be written");
            for (seed, bytes) in &made {
                std::fs::write(folder.join(seed), bytes).expect("the corpus can be written");
            }
        }
        let names: BTreeSet<&str> = made.iter().map(|(seed, _)| *seed).collect();
        assert_eq!(names.len(), made.len(), "{name}: two seeds have one name");
        for (seed, bytes) in &made {
            let lies = std::fs::read(folder.join(seed)).unwrap_or_default();
            assert!(lies == *bytes, "{name}/{seed} is not what is made; write it anew");
        }
        for file in std::fs::read_dir(&folder).expect("a target has a corpus") {
            let file = file.expect("a folder that was opened can be read").file_name();
            let file = file.to_str().expect("names here are plain");
            assert!(!file.starts_with("seed-") || names.contains(file), "{name}/{file} is no seed");
        }
    }
}
