//! Names that clients send, on their way into names and filters of a directory: escaped, so that they stay one value.

use ldap3::{dn_escape, ldap_escape};

/// The longest name that is taken: e-mail addresses have up to 254 bytes (RFC 5321 section 4.5.3.1).
pub(super) const NAME_BYTES_MAX: usize = 256;

/// The longest template of a name or filter, before values are put in.
pub const TEMPLATE_BYTES_MAX: usize = 1024;

/// The deepest filter: its grammar is read recursively.
const FILTER_DEPTH_MAX: usize = 16;

/// Stands for the user's name in templates.
const USER: &str = "{user}";

/// Stands for the user's distinguished name in templates.
const DN: &str = "{dn}";

/// True if a directory may be asked about a user of this name. Control characters are in nobody's.
#[must_use]
pub fn is_name(user: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&user.len()) && !user.chars().any(char::is_control)
}

/// The name under which a user is known who is not looked up in the directory. Directories compare names without regard
/// to case and to spaces that are doubled (RFC 4518 section 2), so that all that they take for one must be one here, too;
/// `None` where that cannot be told: beyond ASCII, directories differ.
#[must_use]
pub fn plain(user: &str) -> Option<String> {
    let is_plain = user.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && user.trim() == user
        && !user.contains("  ");
    (is_name(user) && is_plain).then(|| user.to_ascii_lowercase())
}

/// The name to bind as: a distinguished name, in which the user's is escaped (RFC 4514 section 2.4), or, where the template
/// has no attribute, a name such as `{user}@corp.example`, in which only letters, digits, `.`, `_` and `-` may stand.
#[must_use]
pub fn bind_name(template: &str, user: &str) -> Option<String> {
    if !is_dn(template) {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !user.bytes().all(is_safe) {
            return None;
        }
    }
    Some(template.replace(USER, &dn_escape(user)))
}

/// True if names to bind as are distinguished names.
#[must_use]
pub fn is_dn(template: &str) -> bool {
    template.contains('=')
}

/// The filter with these values, which are escaped (RFC 4515 section 3).
#[must_use]
pub fn filter(template: &str, user: &str, dn: &str) -> String {
    let mut filter = String::with_capacity(template.len() + user.len() + dn.len());
    let mut rest = template;
    // In one pass: a value may look like a place for another.
    while let Some(at) = rest.find('{') {
        let (before, here) = rest.split_at(at);
        filter.push_str(before);
        let (value, length) = if here.starts_with(USER) {
            (ldap_escape(user), USER.len())
        } else if here.starts_with(DN) {
            (ldap_escape(dn), DN.len())
        } else {
            ("{".into(), 1)
        };
        filter.push_str(&value);
        rest = here.get(length..).unwrap_or_default();
    }
    filter.push_str(rest);
    filter
}

/// Checks a template of names to bind as.
///
/// # Errors
/// The fault.
pub fn check_bind_name(template: &str) -> Result<(), String> {
    check(template)?;
    if !template.contains(USER) {
        return Err("must have {user} where the user's name belongs".to_owned());
    }
    Ok(())
}

/// Checks a template of filters.
///
/// # Errors
/// The fault.
pub fn check_filter(template: &str) -> Result<(), String> {
    check(template)?;
    if !template.contains(USER) && !template.contains(DN) {
        return Err("must have {user} (or {dn}): it would find the same for everybody".to_owned());
    }
    let mut depth = 0_usize;
    for byte in template.bytes() {
        depth = match byte {
            b'(' => depth + 1,
            b')' => depth.saturating_sub(1),
            _ => depth,
        };
        if depth > FILTER_DEPTH_MAX {
            return Err(format!("is nested deeper than {FILTER_DEPTH_MAX}"));
        }
    }
    let is_filter = |user, dn| ldap3::parse_filter(filter(template, user, dn)).is_ok();
    if !template.starts_with('(') || !is_filter("user", "uid=user") {
        return Err("is no filter like \"(uid={user})\" (RFC 4515)".to_owned());
    }
    // A value may have anything in it, and an attribute's name may not.
    if !is_filter("*)(", "cn=(*") {
        return Err("can have {user} and {dn} in the place of a value alone".to_owned());
    }
    Ok(())
}

fn check(template: &str) -> Result<(), String> {
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("is longer than {TEMPLATE_BYTES_MAX} bytes"));
    }
    if template.chars().any(char::is_control) {
        return Err("has a control character in it".to_owned());
    }
    Ok(())
}

/// The value of the first part of a distinguished name (RFC 4514): `Team A` of `cn=Team A,ou=groups,dc=corp`. `None` where
/// it is none that can be read.
#[must_use]
pub fn first_value(dn: &str) -> Option<String> {
    let (_attribute, rest) = dn.split_once('=')?;
    let rest = rest.trim_start_matches(' ');
    if rest.starts_with('#') {
        // A value in BER, which has no name as text.
        return None;
    }
    let mut value = Vec::new();
    // Spaces at the end that no backslash keeps belong to nobody.
    let mut kept = 0;
    let mut bytes = rest.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b',' | b'+' | b';' => break,
            b'\\' => {
                let first = bytes.next()?;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                value.push(match digit(first) {
                    Some(high) => u8::try_from(high * 16 + digit(bytes.next()?)?).ok()?,
                    None => first,
                });
                kept = value.len();
            }
            b' ' => value.push(byte),
            _ => {
                value.push(byte);
                kept = value.len();
            }
        }
    }
    value.truncate(kept);
    String::from_utf8(value).ok().filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_stays_one_value_of_a_name() {
        let dn = "uid={user},ou=people,dc=corp";
        let table = [
            ("alice", "uid=alice,ou=people,dc=corp"),
            (
                "alice,ou=admin",
                "uid=alice\\2cou\\3dadmin,ou=people,dc=corp",
            ),
            ("#1", "uid=\\231,ou=people,dc=corp"),
            ("a+cn=b", "uid=a\\2bcn\\3db,ou=people,dc=corp"),
            ("{user}", "uid={user},ou=people,dc=corp"),
        ];
        for (user, expected) in table {
            assert_eq!(bind_name(dn, user).as_deref(), Some(expected));
        }
        let upn = "{user}@corp.example";
        assert_eq!(
            bind_name(upn, "alice").as_deref(),
            Some("alice@corp.example")
        );
        for user in ["alice@evil", "a\\b", "a b", "ä"] {
            assert_eq!(bind_name(upn, user), None, "{user}");
        }
    }

    #[test]
    fn a_user_stays_one_value_of_a_filter() {
        let table = [
            ("alice", "(&(uid=alice)(member=cn=x))"),
            ("*)(uid=*", "(&(uid=\\2a\\29\\28uid=\\2a)(member=cn=x))"),
            ("{dn}", "(&(uid={dn})(member=cn=x))"),
            ("a\\", "(&(uid=a\\5c)(member=cn=x))"),
        ];
        for (user, expected) in table {
            assert_eq!(
                filter("(&(uid={user})(member={dn}))", user, "cn=x"),
                expected
            );
        }
    }

    #[test]
    fn templates_are_checked() {
        check_filter("(uid={user})").unwrap();
        check_filter("(&(objectClass=person)(|(uid={user})(mail={user})))").unwrap();
        check_filter("(member:1.2.840.113556.1.4.1941:={dn})").unwrap();
        for wrong in [
            "uid={user}",
            "(uid={user}",
            "(uid=x)",
            "(uid={user})x",
            "({user}=x)",
            "",
        ] {
            check_filter(wrong).expect_err(wrong);
        }
        let deep = format!("{}(uid={{user}}){}", "(!".repeat(20), ")".repeat(20));
        assert!(check_filter(&deep).unwrap_err().contains("deeper"));
        check_bind_name("uid={user},dc=x").unwrap();
        check_bind_name("uid=x").expect_err("without a user");
    }

    #[test]
    fn names_that_a_directory_takes_for_one_are_one() {
        for (user, expected) in [
            ("alice", Some("alice")),
            ("Alice", Some("alice")),
            ("Alice Smith", Some("alice smith")),
            ("Alice  Smith", None),
            (" alice", None),
            ("al\u{ad}ice", None),
            ("\u{ff41}lice", None),
            ("", None),
            ("a\0", None),
        ] {
            assert_eq!(plain(user).as_deref(), expected, "{user:?}");
        }
        assert!(is_name("älice") && !is_name(&"x".repeat(257)) && !is_name("a\nb"));
    }

    #[test]
    fn the_name_of_a_group_is_read_from_its_place() {
        for (dn, expected) in [
            ("cn=team-a,ou=groups,dc=corp", Some("team-a")),
            ("CN=Team A\\, Ops,OU=x", Some("Team A, Ops")),
            ("cn=a+uid=b,dc=x", Some("a")),
            ("cn=\\c3\\a4 ,dc=x", Some("ä")),
            ("cn= x y  ,dc=x", Some("x y")),
            ("cn=x\\ ,dc=x", Some("x ")),
            ("cn=#0401", None),
            ("cn=", None),
            ("nothing", None),
            ("cn=a\\", None),
            ("cn=a\\4", None),
        ] {
            assert_eq!(first_value(dn).as_deref(), expected, "{dn}");
        }
    }
}
