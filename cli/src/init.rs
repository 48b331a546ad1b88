//! `promptmill init`: files to start from.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};

use crate::args::InitArgs;
use crate::exit::{Exit, Failure};

const FILES: [(&str, &str); 3] = [
    ("template.json", include_str!("../../templates/product-descriptions/template.json")),
    ("rows.csv", include_str!("../../templates/product-descriptions/rows.csv")),
    (".env", include_str!("../../.env.example")),
];

pub(crate) fn init(args: &InitArgs) -> Result<Exit, Failure> {
    std::fs::create_dir_all(&args.dir)
        .map_err(|error| Failure::work(format!("{} cannot be made", args.dir.display()), error))?;
    let taken: Vec<&str> =
        FILES.iter().map(|(name, _)| *name).filter(|name| args.dir.join(name).exists()).collect();
    if !taken.is_empty() {
        return Err(Failure::input(format!(
            "{} exists in {}; nothing was written",
            taken.join(", "),
            args.dir.display()
        )));
    }
    for (name, content) in FILES {
        let path = args.dir.join(name);
        // Never over a file that came in between.
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .and_then(|mut file| file.write_all(content.as_bytes()));
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Failure::input(format!("{} exists; it was left as it is", path.display())));
            }
            Err(error) => {
                return Err(Failure::work(format!("{} cannot be written", path.display()), error));
            }
        }
    }
    let dir = if args.dir == std::path::Path::new(".") {
        String::new()
    } else {
        format!("cd {}\n  ", args.dir.display())
    };
    println!("Wrote template.json, rows.csv and .env. Try it without a key:\n");
    println!("  {dir}promptmill run template.json --rows rows.csv --model demo:any --out results.jsonl\n");
    println!("Then put a key into .env and choose a model: promptmill models openrouter");
    Ok(Exit::Success)
}
