//! Names in registries: `oci://HOST/REPOSITORY`, followed by `:TAG`, `@sha256:DIGEST` or neither.

use std::path::Path;

use oci_client::Reference;

use super::RegistryError;

pub(super) const SCHEME: &str = "oci://";

/// The part after `oci://`; `None` for other paths.
pub(crate) fn name_in(path: &Path) -> Option<&str> {
    path.to_str()?.strip_prefix(SCHEME)
}

/// For publishing, a name needs a tag: the digest is a result, so it cannot be chosen.
pub(crate) fn refuse_without_tag(name: &str) -> Result<(), RegistryError> {
    let has_tag = name
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    if has_tag && !name.contains('@') {
        return Ok(());
    }
    Err(RegistryError::Reference(format!(
        "publish under a tag: {SCHEME}HOST/REPOSITORY:TAG"
    )))
}

pub(super) fn parse(name: &str) -> Result<Reference, RegistryError> {
    let wrong = |reason: String| {
        RegistryError::Reference(format!(
            "{SCHEME}{name}: {reason}; a plugin is named {SCHEME}HOST/REPOSITORY:TAG or {SCHEME}HOST/REPOSITORY@sha256:DIGEST"
        ))
    };
    let host = name.split_once('/').map_or("", |(host, _)| host);
    if host.contains('@') {
        // The name is not repeated, because it contains a password.
        let reason = "a name must not contain credentials: log in with `docker login`, or set PATCHBAY_REGISTRY_USER and PATCHBAY_REGISTRY_PASSWORD";
        return Err(RegistryError::Reference(reason.into()));
    }
    if host
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_err())
    {
        return Err(wrong("its port is not a number from 0 to 65535".into()));
    }
    // Without this check, a name without a host would be looked up in Docker's registry.
    if !(host == "localhost" || host.contains(['.', ':'])) {
        return Err(wrong("it has no host".into()));
    }
    name.parse::<Reference>()
        .map_err(|error| wrong(error.to_string()))
}

/// Registries on this machine need no TLS.
pub(super) fn is_this_machine(registry: &str) -> bool {
    let host = registry
        .rsplit_once(':')
        .map_or(registry, |(host, _port)| host);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

pub(super) fn without_digest(reference: &Reference) -> String {
    let name = format!("{}/{}", reference.registry(), reference.repository());
    reference
        .tag()
        .map_or(name.clone(), |tag| format!("{name}:{tag}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_host_is_refused_and_not_looked_for_elsewhere() {
        for name in [
            "",
            "email",
            "acme/email:1",
            "localhost",
            "ghcr.example/",
            "ghcr.example/Acme/x",
            "a.b/c@sha256:00",
        ] {
            let refused = parse(name).expect_err(name).to_string();
            assert!(refused.contains("oci://HOST/REPOSITORY:TAG"), "{refused}");
        }
        for name in [
            "127.0.0.1:99999/a:1",
            "registry.example:/a:1",
            "registry.example:x/a:1",
        ] {
            assert!(
                parse(name)
                    .expect_err(name)
                    .to_string()
                    .contains("its port is not a number from 0 to 65535"),
                "{name}"
            );
        }
        let refused = parse("user:pass-word@registry.example/a:1")
            .expect_err("credentials")
            .to_string();
        assert!(
            refused.contains("credentials") && !refused.contains("pass-word"),
            "{refused}"
        );
        for (name, registry) in [
            ("localhost/a:1", "localhost"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000"),
            ("registry.example/a/b:1.0", "registry.example"),
        ] {
            assert_eq!(parse(name).expect(name).registry(), registry);
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls_unasked() {
        for near in ["localhost", "localhost:5000", "127.0.0.1", "127.8.8.8:5000"] {
            assert!(is_this_machine(near), "{near}");
        }
        for far in [
            "localhost.example",
            "127.0.0.1.example:5000",
            "10.0.0.1:5000",
            "registry.example",
        ] {
            assert!(!is_this_machine(far), "{far}");
        }
    }

    #[test]
    fn one_publishes_under_a_tag() {
        assert!(refuse_without_tag("registry.example:5000/a/b:1").is_ok());
        for name in [
            "registry.example:5000/a/b",
            "registry.example/a@sha256:00",
            "registry.example/a:1@sha256:00",
        ] {
            assert!(refuse_without_tag(name).is_err(), "{name}");
        }
    }
}
