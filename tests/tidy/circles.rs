//! Import circles: which files need each other, and how many do at once.
//!
//! A file needs another if it imports, or names by its path, an item that is defined there. Re-exports (`pub use`) count
//! for nothing themselves: who imports through one needs the file behind it.

use super::{Source, sources};
use std::collections::{BTreeMap, BTreeSet};

/// More files than this cannot be understood one at a time.
const FILES_MAX: usize = 3;

/// A module's path: `["store", "cas", "fill"]`.
type Module = Vec<String>;

/// What a file defines, re-exports and uses.
#[derive(Default)]
struct File {
    defines: BTreeSet<String>,
    re_exports: BTreeMap<String, Vec<String>>,
    uses: Vec<Vec<String>>,
}

struct Files(BTreeMap<Module, File>);

impl Files {
    fn read() -> Self {
        let all = sources(&["src"]);
        let shipped = all.iter().filter(|it| !it.shipped().is_empty());
        let files = shipped.map(|it| (module_of(&it.path), File::read(&code_of(it))));
        Self(files.filter(|(module, _)| !module.is_empty()).collect())
    }

    /// The file that defines what `path` names in `from`; `None` for modules, macros and other crates.
    fn defining(&self, from: &Module, path: &[String], steps: usize) -> Option<Module> {
        let mut module = from.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => module.clear(),
            "self" | "super" => {}
            child => {
                let mut inner = from.clone();
                inner.push(child.to_owned());
                self.0.contains_key(&inner).then_some(())?;
            }
        }
        while let Some(first) = rest.first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(module.pop()),
                name => {
                    let mut inner = module.clone();
                    inner.push(name.to_owned());
                    if !self.0.contains_key(&inner) {
                        break;
                    }
                    module = inner;
                }
            }
            rest = &rest[1..];
        }
        let name = rest.first()?;
        let file = self.0.get(&module)?;
        if file.defines.contains(name) {
            return Some(module);
        }
        let behind = file.re_exports.get(name).filter(|_| steps > 0)?;
        self.defining(&module, behind, steps - 1)
    }

    fn needs(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, file): (&_, &File)| {
            let found = file.uses.iter();
            let found = found.filter_map(|path| self.defining(module, path, 8));
            found.filter(|it| it != module).collect()
        };
        self.0.iter().map(|it| (it.0, of(it))).collect()
    }
}

impl File {
    fn read(code: &str) -> Self {
        let mut file = Self::default();
        let mut body = String::new();
        for statement in code.split_inclusive(';') {
            // An import is a statement of its own, behind attributes and `pub`.
            let Some(at) = statement
                .rfind("use ")
                .filter(|at| is_import(&statement[..*at]))
            else {
                body.push_str(statement);
                continue;
            };
            let before = &statement[..at];
            let is_public = before.trim_end().ends_with("pub") || before.trim_end().ends_with(')');
            body.push_str(before);
            let tree = &statement[at + 4..];
            for path in paths(tree.trim_end_matches(';').trim()) {
                if is_public {
                    let name = path.last().cloned().unwrap_or_default();
                    file.re_exports.insert(name, path);
                } else {
                    file.uses.push(path);
                }
            }
        }
        for line in body.lines() {
            file.defines.extend(defined(line));
        }
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in body.match_indices(start) {
                let path: String = body[at..].chars().take_while(|c| is_path(*c)).collect();
                file.uses
                    .push(path.split("::").map(str::to_owned).collect());
            }
        }
        file
    }
}

fn is_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':')
}

/// True if nothing but attributes and visibility stands between this and the statement before.
fn is_import(before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default().trim();
    line.is_empty() || line == "pub" || (line.starts_with("pub(") && line.ends_with(')'))
}

/// The paths of an import's tree.
fn paths(tree: &str) -> Vec<Vec<String>> {
    let names = |path: &str| -> Vec<String> {
        let names = path.split("::").map(str::trim);
        names
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let Some((head, list)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or(tree);
        return vec![names(path)];
    };
    let head = names(head);
    let list = list.trim_end().strip_suffix('}').unwrap_or(list);
    let (mut depth, mut from) = (0_usize, 0);
    let mut found = Vec::new();
    for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                let each = paths(&list[from..at]).into_iter();
                found.extend(each.map(|rest| [head.clone(), rest].concat()));
                from = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// The name that a line of a file's own level defines.
fn defined(line: &str) -> Option<String> {
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let kinds = ["struct", "enum", "trait", "fn", "type", "const", "static"];
    if line.starts_with(char::is_whitespace) {
        return None;
    }
    let kind = words.find(|it| kinds.contains(it))?;
    let name = words.next().filter(|it| !it.is_empty())?;
    // `const fn name`
    let name = if kind == "const" && name == "fn" {
        words.next()?
    } else {
        name
    };
    Some(name.to_owned())
}

/// The code without comments, strings, and the tests at its end.
fn code_of(source: &Source) -> String {
    let end = source.code.find("#[cfg(test)]\nmod tests {");
    source.code[..end.unwrap_or(source.code.len())].to_owned()
}

fn module_of(path: &str) -> Module {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    let is_root = matches!(path, "lib" | "main");
    path.split('/')
        .filter(|_| !is_root)
        .map(str::to_owned)
        .collect()
}

/// Everything that can be reached from a file.
fn reached<'a>(
    needs: &'a BTreeMap<&Module, BTreeSet<Module>>,
    from: &'a Module,
) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut left: Vec<&Module> = needs[from].iter().collect();
    while let Some(module) = left.pop() {
        if found.insert(module) {
            left.extend(&needs[module]);
        }
    }
    found
}

#[test]
fn no_more_than_three_files_import_each_other() {
    let files = Files::read();
    let needs = files.needs();
    assert!(needs.len() > 200, "{} files were found", needs.len());
    let edges: usize = needs.values().map(BTreeSet::len).sum();
    assert!(edges > 1000, "{edges} imports were found");
    let reach: BTreeMap<_, _> = needs.keys().map(|it| (*it, reached(&needs, it))).collect();
    let circle = |module: &Module| -> BTreeSet<String> {
        let both = reach[module]
            .iter()
            .filter(|it| reach[**it].contains(module));
        both.map(|it| it.join("::")).collect()
    };
    let circles: BTreeSet<_> = needs.keys().map(|it| circle(it)).collect();
    let small = circles.iter().filter(|it| it.len() > 1).count();
    assert!(small > 0, "imports of a circle are not found any more");
    let large = circles.into_iter().filter(|it| it.len() > FILES_MAX);
    let faults: Vec<String> = large
        .map(|it| format!("{} files: {it:?}", it.len()))
        .collect();
    super::assert_none(&faults);
}
