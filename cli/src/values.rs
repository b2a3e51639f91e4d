//! What may follow a flag: addresses, zones, sizes.
//!
//! Owns the limits and what is said of a value beyond them; the parser of the arguments names the flag and ends with the
//! code for wrong usage. Deliberately asks nothing of the machine: that an address can be had is found out later.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tracing_subscriber::EnvFilter;

/// The longest host name (RFC 1035), in bytes.
const HOST_BYTES_MAX: usize = 253;
/// The longest zone, in bytes.
const ZONE_BYTES_MAX: usize = 64;
/// The least that a node may offer, in bytes: some steps by which data files grow.
const CAPACITY_BYTES_MIN: u64 = 256 << 20;
/// The most, in bytes: no disk comes near.
const CAPACITY_BYTES_MAX: u64 = 1 << 60;

/// `HOST:PORT` of this machine, to listen at.
pub(crate) fn listening(text: &str) -> Result<String, String> {
    split(text)?;
    Ok(text.to_owned())
}

/// `ADDRESS:PORT` of this machine, the first of several ports to listen at.
pub(crate) fn listening_here(text: &str) -> Result<SocketAddr, String> {
    let host = split(text)?;
    text.parse().map_err(|_| {
        format!("{host} is a name: write an address of this machine, such as 10.0.0.11:7791")
    })
}

/// `HOST:PORT` that somebody dials.
pub(crate) fn dialled(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(
            "it is empty: write HOST:PORT; an environment variable that is empty must be unset"
                .into(),
        );
    }
    let host = split(text)?;
    match host.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(format!(
            "{host} names every address of a machine and none that can be dialled: name one, HOST:PORT"
        )),
        _ => Ok(text.to_owned()),
    }
}

/// The host of an address; what is wrong with it if anything.
fn split(text: &str) -> Result<&str, String> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("it has no port: write HOST:PORT, such as 10.0.0.11:7791".into());
    };
    match port.parse::<u16>() {
        Ok(0) => {
            return Err("port 0 is none that others could find: choose one from 1 to 65535".into());
        }
        Ok(_) if port.bytes().all(|byte| byte.is_ascii_digit()) => {}
        _ => {
            return Err(format!(
                "{port:?} is no port: write HOST:PORT with a port from 1 to 65535"
            ));
        }
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    if let Some(host) = bracketed {
        return match host.parse::<Ipv6Addr>() {
            Ok(_) => Ok(host),
            Err(_) => Err(format!("[{host}] is no IPv6 address")),
        };
    }
    if host.contains(':') {
        return Err("an IPv6 address is written in brackets: [ADDRESS]:PORT".into());
    }
    let in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > HOST_BYTES_MAX || !host.chars().all(in_names) {
        return Err(format!(
            "{host:?} is no host: write HOST:PORT, with a name of letters, digits, dots and hyphens or an IP address"
        ));
    }
    Ok(host)
}

/// The words for levels.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// A log filter. A word that is no level would be taken for the only part of the program that may log.
pub(crate) fn log_filter(text: &str) -> Result<String, String> {
    let parts = text.split(',').map(str::trim);
    let mut words = parts.filter(|part| !part.is_empty() && !part.contains(['=', '[']));
    if let Some(word) = words.find(|word| !LEVELS.contains(&word.to_ascii_lowercase().as_str())) {
        return Err(format!(
            "{word:?} is no level: write error, warn, info, debug, trace or off, or PART=LEVEL such as polyfs_node=debug"
        ));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A failure domain.
pub(crate) fn zone(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > ZONE_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(format!(
            "a zone has 1 to {ZONE_BYTES_MAX} bytes and no control characters, and this one has {} bytes; leave the flag out for none",
            text.len()
        ));
    }
    Ok(text.to_owned())
}

/// Bytes that a node offers, as people write them.
pub(crate) fn capacity(text: &str) -> Result<u64, String> {
    let size: bytesize::ByteSize = text
        .parse()
        .map_err(|_| "write a size such as 500GB or 2TiB".to_owned())?;
    let bytes = size.as_u64();
    if bytes < CAPACITY_BYTES_MIN {
        return Err(
            "a node needs at least 256MiB; leave the flag out to offer all of the disk".into(),
        );
    }
    if bytes > CAPACITY_BYTES_MAX {
        return Err("at most 1EiB; leave the flag out to offer all of the disk".into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["10.0.0.11:7791", "w1:7790", "[::1]:7790", "a-b.example_c:1"] {
            assert_eq!(dialled(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            "foo",
            "foo:",
            ":7790",
            "foo:0",
            "foo:65536",
            "foo:x",
            "foo:-1",
            "::1:7790",
            "[x]:1",
            "a b:7790",
            "a\n:7790",
            "foo:+7",
            "0.0.0.0:7790",
            "[::]:7790",
        ] {
            assert!(dialled(bad).is_err(), "{bad:?}");
        }
        let long = format!("{}:7790", "x".repeat(254));
        assert!(dialled(&long).is_err());
        assert!(listening("0.0.0.0:7790").is_ok());
        assert!(listening("0.0.0.0:0").is_err());
        assert!(listening_here("[::1]:7790").is_ok());
        let name = listening_here("localhost:7790").expect_err("a name");
        assert!(name.contains("an address of this machine"), "{name}");
    }

    #[test]
    fn a_log_filter_names_levels() {
        for good in [
            "",
            "warn",
            "INFO",
            "warn,openraft=error",
            "polyfs_node::raft=debug",
        ] {
            assert_eq!(log_filter(good).as_deref(), Ok(good));
        }
        for bad in ["debgu", "polyfs_node", "a=b=c", "warn,openraft=loud"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn zones_are_short_and_printable() {
        assert_eq!(zone("rack 7").as_deref(), Ok("rack 7"));
        for bad in ["", "a\nb", "a\u{1b}[31mb", &"z".repeat(65)] {
            let error = zone(bad).expect_err("it is refused");
            assert!(error.contains("64 bytes"), "{error}");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        assert_eq!(capacity("16GiB"), Ok(16 << 30));
        assert_eq!(capacity("2TB"), Ok(2_000_000_000_000));
        for bad in [
            "0",
            "1MB",
            "255MiB",
            "2EiB",
            "99999999999999999999TB",
            "-5GB",
            "much",
            "",
        ] {
            assert!(capacity(bad).is_err(), "{bad}");
        }
    }
}
