//! What a Debian machine says of itself: its release, and its package sources. Texts in, texts out; nothing is run.

const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const DEFAULT_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What `/etc/os-release` says.
pub struct Release {
    pub name: String,
    pub id: String,
    version: u32,
    codename: String,
}

impl Release {
    pub fn parse(text: &str) -> Release {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_default().trim_matches('"').to_string()
        };
        Release {
            name: match field("PRETTY_NAME") {
                name if name.is_empty() => "an unknown system".into(),
                name => name,
            },
            id: field("ID"),
            version: field("VERSION_ID").parse().unwrap_or(0),
            codename: field("VERSION_CODENAME"),
        }
    }

    /// The suite that has a new enough QEMU.
    pub fn suite(&self) -> Option<&str> {
        match (self.id.as_str(), self.version) {
            ("debian", 12) => Some("bookworm-backports"),
            ("debian", 13..) if !self.codename.is_empty() => Some(&self.codename),
            _ => None,
        }
    }
}

fn active_lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.trim_start().starts_with('#'))
}

/// True if these package sources have `suite`.
pub fn has_suite(sources: &str, suite: &str) -> bool {
    active_lines(sources).any(|line| line.split_whitespace().any(|word| word == suite))
}

/// A source of `suite` from the mirror, and with the key, that the machine uses for the release itself.
pub fn backports_source(sources: &str, suite: &str) -> String {
    let base = suite.trim_end_matches("-backports");
    let (mirror, key) = mirror_of(sources, base).unwrap_or((DEFAULT_MIRROR.into(), None));
    let key = key.unwrap_or_else(|| DEFAULT_KEYRING.into());
    format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {key}\n")
}

/// Mirror and key of the entry for `base`.
fn mirror_of(sources: &str, base: &str) -> Option<(String, Option<String>)> {
    for paragraph in sources.split("\n\n") {
        let field = |name: &str| {
            active_lines(paragraph).find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else { continue };
        if suites.split_whitespace().any(|suite| suite == base) {
            let mirror = uris.split_whitespace().next()?.to_string();
            // A key that is spelt out over several lines is not copied; Debian's own keyring is the same key.
            let key = field("Signed-By").filter(|key| key.starts_with('/')).map(str::to_string);
            return Some((mirror, key));
        }
    }
    for line in active_lines(sources) {
        let Some(rest) = line.strip_prefix("deb ") else { continue };
        let (options, rest) = match rest.trim_start().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(mirror), Some(suite)) = (words.next(), words.next())
            && suite == base
        {
            let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
            return Some((mirror.to_string(), key.map(str::to_string)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_the_machines_own_mirror_and_key() {
        let deb822 = "Types: deb\n# old\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
                      Components: main\nSigned-By: /usr/share/keyrings/own.gpg\n\nTypes: deb\n\
                      URIs: http://other.example/sec\nSuites: bookworm-security\n";
        let text = backports_source(deb822, "bookworm-backports");
        assert!(text.contains("URIs: http://mirror.example/debian\nSuites: bookworm-backports\n"), "{text}");
        assert!(text.contains("Signed-By: /usr/share/keyrings/own.gpg\n"), "{text}");

        let one_line =
            "# deb http://no.example x\ndeb [arch=amd64 signed-by=/k.gpg] http://one.example/debian bookworm main";
        let text = backports_source(one_line, "bookworm-backports");
        assert!(text.contains("URIs: http://one.example/debian\n") && text.contains("Signed-By: /k.gpg\n"), "{text}");

        let text = backports_source("", "bookworm-backports");
        assert!(text.contains(DEFAULT_MIRROR) && text.contains(DEFAULT_KEYRING));
    }

    #[test]
    fn a_suite_that_is_there_is_not_added_again() {
        assert!(has_suite("Suites: bookworm bookworm-backports", "bookworm-backports"));
        assert!(!has_suite("# Suites: bookworm-backports\nSuites: bookworm", "bookworm-backports"));
    }

    #[test]
    fn only_releases_that_have_a_new_qemu_are_installed_to() {
        let suite = |text: &str| Release::parse(text).suite().map(str::to_string);
        assert_eq!(suite("ID=debian\nVERSION_ID=\"12\"\n"), Some("bookworm-backports".into()));
        assert_eq!(suite("ID=debian\nVERSION_ID=13\nVERSION_CODENAME=trixie"), Some("trixie".into()));
        assert_eq!(suite("ID=debian\nVERSION_ID=11\n"), None);
        assert_eq!(suite("ID=fedora\nVERSION_ID=42\n"), None);
    }
}
