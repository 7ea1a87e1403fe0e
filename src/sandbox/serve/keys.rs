//! The server's token, and what is derived from it for each sandbox.
//!
//! A sandbox must never hold the server's own token: whoever is root in there could start and stop all others. What it gets is made from
//! the token and its id, good for that id alone, and known again after a restart without being written down.

use sha2::{Digest, Sha256};

/// The bearer token of the server. Prints as nothing.
pub struct Keys {
    secret: [u8; 32],
    digest: [u8; 32],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// Of this token.
    pub fn new(token: &str) -> Self {
        Self {
            secret: hmac(token.as_bytes(), b"sandkeep serve"),
            digest: Sha256::digest(token).into(),
        }
    }

    /// Whether this is the token. Takes the same time wherever they differ.
    pub fn is_token(&self, given: &str) -> bool {
        same(&Sha256::digest(given), &self.digest)
    }

    /// What a sandbox reports with.
    pub fn report_key(&self, sandbox: &str) -> String {
        self.derived("report", sandbox)
    }

    /// Whether this is what that sandbox reports with.
    pub fn is_report_key(&self, sandbox: &str, given: &str) -> bool {
        same(&Sha256::digest(self.report_key(sandbox)), &Sha256::digest(given))
    }

    /// The bearer token of a sandbox's own health endpoint: its SANDKEEP_TOKEN.
    pub fn health_token(&self, sandbox: &str) -> String {
        self.derived("health", sandbox)
    }

    fn derived(&self, purpose: &str, sandbox: &str) -> String {
        hex(&hmac(&self.secret, format!("{purpose}\0{sandbox}").as_bytes()))
    }
}

/// HMAC-SHA256. RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y))) == 0
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let given = hex(&hmac(b"Jefe", b"what do ya want for nothing?"));
        assert_eq!(given, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let given = hex(&hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"));
        assert_eq!(given, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn a_key_is_good_for_one_sandbox_and_one_purpose() {
        let keys = Keys::new("secret");
        assert!(keys.is_token("secret") && !keys.is_token("secre") && !keys.is_token(""));
        let key = keys.report_key("sb-1");
        assert!(keys.is_report_key("sb-1", &key));
        assert!(!keys.is_report_key("sb-2", &key) && !keys.is_report_key("sb-1", &keys.health_token("sb-1")));
        assert_ne!(key, Keys::new("other").report_key("sb-1"));
    }
}
