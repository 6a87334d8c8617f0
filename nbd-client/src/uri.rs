//! NBD URIs: `nbd://host[:port]/export` and `nbd+unix:///export?socket=PATH`.
//!
//! The grammar is that of the NBD project's `doc/uri.md`. It is read strictly: a parameter that nobody knows is an
//! error here, because a misspelt one that is ignored connects to the wrong place.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use crate::target::{Address, DEFAULT_PORT, Target};

/// Longest export name in bytes ("Values": strings are at most 4096 bytes).
pub const MAX_EXPORT_NAME: usize = 4096;

/// Longest path of a unix socket in bytes (`sun_path` without its final zero, unix(7)).
pub const MAX_SOCKET_PATH: usize = 107;

/// What is wrong with a URI, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No `scheme://` at its beginning.
    #[error(
        "{text:?} is not an NBD URI; write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH"
    )]
    NotAUri {
        /// What was given.
        text: String,
    },
    /// The scheme is not one of NBD's.
    #[error(
        "scheme {scheme:?} is not NBD; the schemes are nbd:// (TCP) and nbd+unix:// (unix socket)"
    )]
    Scheme {
        /// What was given.
        scheme: String,
    },
    /// `nbds`, `nbds+unix` or a `tls-` parameter.
    #[error(
        "{part} asks for TLS, which is not built yet; nbd:// and nbd+unix:// connect without it"
    )]
    TlsNotBuilt {
        /// The scheme or parameter.
        part: String,
    },
    /// A scheme of the public document that is not supported here.
    #[error("scheme {scheme:?} is not supported; use nbd:// (TCP) or nbd+unix:// (unix socket)")]
    Transport {
        /// What was given.
        scheme: String,
    },
    /// A user name before the host.
    #[error("user name {user:?} in the URI has no meaning without TLS; remove it and the @")]
    User {
        /// What was given.
        user: String,
    },
    /// An nbd:// URI without a host.
    #[error(
        "the URI names no host; write nbd://HOST[:PORT]/EXPORT, with an IPv6 address in brackets"
    )]
    NoHost,
    /// A host that cannot be one.
    #[error("{host:?} is not a host; an IPv6 address stands in brackets, as in nbd://[::1]:10809/")]
    Host {
        /// What was given.
        host: String,
    },
    /// A port that is no number from 1 to 65535.
    #[error("port {port:?} is not a number from 1 to 65535")]
    Port {
        /// What was given.
        port: String,
    },
    /// A `%` without two hexadecimal digits.
    #[error(
        "{text:?} has a % that two hexadecimal digits do not follow; write %25 for the sign itself"
    )]
    Percent {
        /// The part of the URI.
        text: String,
    },
    /// The export name is not a name.
    #[error("export name in the URI {why}")]
    ExportName {
        /// What is wrong with it.
        why: &'static str,
    },
    /// An nbd+unix:// URI that has a host.
    #[error(
        "nbd+unix:// takes no host, but {host:?} is given; write nbd+unix:///EXPORT?socket=PATH"
    )]
    UnixHost {
        /// What was given.
        host: String,
    },
    /// No `socket=` or an empty one.
    #[error("the URI names no socket; write nbd+unix:///EXPORT?socket=PATH")]
    NoSocket,
    /// A socket path that the system cannot take.
    #[error("socket path {path:?} {why}")]
    SocketPath {
        /// What was given.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A parameter that has no meaning here.
    #[error("parameter {name:?} of the URI is unknown{hint}")]
    Parameter {
        /// Its name.
        name: String,
        /// What would be right.
        hint: &'static str,
    },
    /// The same parameter twice.
    #[error("parameter {name:?} of the URI is given twice")]
    Twice {
        /// Its name.
        name: String,
    },
    /// A `#` part.
    #[error("an NBD URI has no #fragment; write %23 for the sign itself")]
    Fragment,
}

/// Whether `text` was meant as a URI rather than as a path: it begins like `scheme://`.
pub fn looks_like_uri(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

/// Reads an NBD URI.
pub fn parse(text: &str) -> Result<Target, UriError> {
    if !looks_like_uri(text) {
        return Err(UriError::NotAUri {
            text: text.to_owned(),
        });
    }
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let scheme = scheme.to_ascii_lowercase();
    let unix = match scheme.as_str() {
        "nbd" => false,
        "nbd+unix" => true,
        "nbds" | "nbds+unix" | "nbds+vsock" | "nbds+ssh" => {
            return Err(UriError::TlsNotBuilt {
                part: format!("{scheme}://"),
            });
        }
        "nbd+vsock" | "nbd+ssh" => return Err(UriError::Transport { scheme }),
        _ => return Err(UriError::Scheme { scheme }),
    };
    if rest.contains('#') {
        return Err(UriError::Fragment);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => (&rest[..slash], &rest[slash + 1..]),
        None => (rest, ""),
    };
    let export = export_name(path)?;
    let socket = parameters(query, unix)?;
    let address = if unix {
        if !authority.is_empty() {
            return Err(UriError::UnixHost {
                host: authority.to_owned(),
            });
        }
        Address::Unix {
            path: socket.ok_or(UriError::NoSocket)?,
        }
    } else {
        tcp_address(authority)?
    };
    Ok(Target { address, export })
}

/// Writes the URI that [`parse`] reads back as `target`.
pub fn render(target: &Target) -> String {
    let export = percent_encode(target.export.as_bytes(), b"/:");
    match &target.address {
        Address::Tcp { host, port } => {
            let host = if host.contains(':') {
                format!("[{}]", percent_encode(host.as_bytes(), b":"))
            } else {
                percent_encode(host.as_bytes(), b"")
            };
            if *port == DEFAULT_PORT {
                format!("nbd://{host}/{export}")
            } else {
                format!("nbd://{host}:{port}/{export}")
            }
        }
        Address::Unix { path } => {
            let path = percent_encode(path.as_os_str().as_bytes(), b"/:");
            format!("nbd+unix:///{export}?socket={path}")
        }
    }
}

fn export_name(path: &str) -> Result<String, UriError> {
    let name = String::from_utf8(percent_decode(path)?).map_err(|_| UriError::ExportName {
        why: "is not UTF-8 after its % escapes are undone",
    })?;
    if name.len() > MAX_EXPORT_NAME {
        return Err(UriError::ExportName {
            why: "is longer than 4096 bytes",
        });
    }
    if name.contains('\0') {
        return Err(UriError::ExportName {
            why: "contains a zero byte",
        });
    }
    Ok(name)
}

/// The `socket` parameter, if it is there and may be.
fn parameters(query: &str, unix: bool) -> Result<Option<PathBuf>, UriError> {
    let mut socket = None;
    for parameter in query
        .split(['&', ';'])
        .filter(|parameter| !parameter.is_empty())
    {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match name {
            "socket" if !unix => {
                return Err(UriError::Parameter {
                    name: name.to_owned(),
                    hint: " with nbd://; use nbd+unix://",
                });
            }
            "socket" if socket.is_some() => {
                return Err(UriError::Twice {
                    name: name.to_owned(),
                });
            }
            "socket" => socket = Some(socket_path(value)?),
            tls if tls.starts_with("tls-") => {
                return Err(UriError::TlsNotBuilt {
                    part: format!("parameter {tls:?}"),
                });
            }
            _ => {
                let hint = if unix {
                    "; the only one is socket=PATH"
                } else {
                    "; nbd:// takes none"
                };
                return Err(UriError::Parameter {
                    name: name.to_owned(),
                    hint,
                });
            }
        }
    }
    Ok(socket)
}

fn socket_path(value: &str) -> Result<PathBuf, UriError> {
    let bytes = percent_decode(value)?;
    let wrong = |why| UriError::SocketPath {
        path: value.to_owned(),
        why,
    };
    if bytes.is_empty() {
        return Err(UriError::NoSocket);
    }
    if bytes.contains(&0) {
        return Err(wrong("contains a zero byte"));
    }
    if bytes.len() > MAX_SOCKET_PATH {
        return Err(wrong(
            "is longer than 107 bytes, which is all that unix sockets take",
        ));
    }
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

fn tcp_address(authority: &str) -> Result<Address, UriError> {
    if let Some((user, _)) = authority.rsplit_once('@') {
        return Err(UriError::User {
            user: user.to_owned(),
        });
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let wrong = || UriError::Host {
            host: authority.to_owned(),
        };
        let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
        let literal = host
            .split_once("%25")
            .map_or(host, |(literal, _zone)| literal);
        literal.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
        if !port.is_empty() && !port.starts_with(':') {
            return Err(wrong());
        }
        (host, port.strip_prefix(':'))
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(UriError::Host {
                    host: authority.to_owned(),
                });
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err(UriError::NoHost);
    }
    let port = match port {
        None | Some("") => DEFAULT_PORT,
        Some(port) => parse_port(port)?,
    };
    let decoded = String::from_utf8(percent_decode(host)?).ok();
    let host = decoded
        .filter(|host| {
            !host
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || c == '/')
        })
        .ok_or_else(|| UriError::Host {
            host: authority.to_owned(),
        })?;
    Ok(Address::Tcp { host, port })
}

fn parse_port(text: &str) -> Result<u16, UriError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse::<u16>()
        .ok()
        .filter(|port| digits && *port != 0)
        .ok_or_else(|| UriError::Port {
            port: text.to_owned(),
        })
}

fn percent_decode(text: &str) -> Result<Vec<u8>, UriError> {
    let wrong = || UriError::Percent {
        text: text.to_owned(),
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || {
            bytes
                .next()
                .and_then(|byte| char::from(byte).to_digit(16))
                .ok_or_else(wrong)
        };
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).map_err(|_| wrong())?);
    }
    Ok(decoded)
}

/// Escapes everything but letters, digits, `-._~` and the bytes of `also_plain`.
fn percent_encode(bytes: &[u8], also_plain: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || also_plain.contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_uris_name_their_target() {
        let table = [
            ("nbd://server1", Target::tcp("server1", 10809, "")),
            ("nbd://server1/", Target::tcp("server1", 10809, "")),
            (
                "nbd://server1:10810/disk",
                Target::tcp("server1", 10810, "disk"),
            ),
            ("nbd://server1:/disk", Target::tcp("server1", 10809, "disk")),
            (
                "NBD://10.0.0.1/disk",
                Target::tcp("10.0.0.1", 10809, "disk"),
            ),
            ("nbd://[::1]/disk", Target::tcp("::1", 10809, "disk")),
            (
                "nbd://[fe80::1%25eth0]:1/a",
                Target::tcp("fe80::1%eth0", 1, "a"),
            ),
            ("nbd://h/a%20b%2Fc", Target::tcp("h", 10809, "a b/c")),
            ("nbd://h//dev/sdb1", Target::tcp("h", 10809, "/dev/sdb1")),
            (
                "nbd+unix:///?socket=/run/n.sock",
                Target::unix("/run/n.sock", ""),
            ),
            (
                "nbd+unix://?socket=/run/n.sock",
                Target::unix("/run/n.sock", ""),
            ),
            (
                "nbd+unix:///disk?socket=rel%20ative",
                Target::unix("rel ative", "disk"),
            ),
        ];
        for (text, target) in table {
            assert_eq!(parse(text), Ok(target.clone()), "{text}");
            assert_eq!(parse(&render(&target)), Ok(target), "{text} rendered");
        }
    }

    #[test]
    fn bad_uris_name_the_part_that_is_wrong() {
        let table = [
            ("/dev/sdb", "not an NBD URI"),
            ("", "not an NBD URI"),
            ("http://h/", "scheme \"http\""),
            ("nbds://h/", "TLS, which is not built yet"),
            ("nbds+unix:///?socket=/s", "TLS, which is not built yet"),
            ("nbd+vsock://2/", "not supported"),
            ("nbd:///disk", "names no host"),
            ("nbd://:10809/disk", "names no host"),
            ("nbd://h:0/", "port \"0\""),
            ("nbd://h:65536/", "port \"65536\""),
            ("nbd://h:+1/", "port \"+1\""),
            ("nbd://h:x/", "port \"x\""),
            ("nbd://::1/", "brackets"),
            ("nbd://[::1/", "brackets"),
            ("nbd://[::1]x/", "brackets"),
            ("nbd://[h]/", "brackets"),
            ("nbd://me@h/", "user name \"me\""),
            ("nbd://h/%", "two hexadecimal digits"),
            ("nbd://h/%g0", "two hexadecimal digits"),
            ("nbd://h/%+1", "two hexadecimal digits"),
            ("nbd://h/%00", "zero byte"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/a#b", "fragment"),
            ("nbd://h/?socket=/s", "nbd+unix://"),
            ("nbd://h/?tls-type=x509", "TLS"),
            ("nbd://h/?sokcet=/s", "\"sokcet\""),
            ("nbd+unix:///disk", "names no socket"),
            ("nbd+unix:///disk?socket=", "names no socket"),
            ("nbd+unix:///disk?sock=/s", "socket=PATH"),
            ("nbd+unix:///disk?socket=/s&socket=/t", "twice"),
            ("nbd+unix://h/disk?socket=/s", "takes no host"),
            ("nbd+unix:///disk?socket=%00", "zero byte"),
        ];
        for (text, part) in table {
            let message = parse(text).expect_err(text).to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(
                !message.contains('\n') && !message.ends_with('.'),
                "{text}: {message}"
            );
        }
        let long = format!("nbd+unix:///?socket=/{}", "s".repeat(107));
        assert!(parse(&long).unwrap_err().to_string().contains("107 bytes"));
        let long = format!("nbd://h/{}", "e".repeat(4097));
        assert!(parse(&long).unwrap_err().to_string().contains("4096 bytes"));
    }

    proptest! {
        #[test]
        fn any_export_name_survives_its_uri(export in "[^\0]{0,40}", socket in "[^\0]{1,26}") {
            let target = Target::unix(socket, export.clone());
            prop_assert_eq!(parse(&render(&target)), Ok(target));
            let target = Target::tcp("host", 7, export);
            prop_assert_eq!(parse(&render(&target)), Ok(target));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,60}", tail in "(nbd|nbd\\+unix)://.{0,40}") {
            let _ = parse(&text);
            let _ = parse(&tail);
        }
    }
}
