//! A token in software (SoftHSM 2): `tests/run` installs it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Where distributions have its library.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// A token of one's own, in a directory that can be taken away.
#[derive(Debug)]
pub struct SoftToken {
    place: PathBuf,
    module: &'static str,
}

impl SoftToken {
    /// Makes a token in a new directory.
    ///
    /// # Panics
    /// If SoftHSM isn't installed.
    pub fn new(place: &Path) -> Self {
        let module = MODULES.into_iter().find(|module| Path::new(module).exists());
        let module = module.expect("SoftHSM 2 is not installed; tests/run does it");
        fs::create_dir_all(place.join("tokens")).expect("a new directory");
        let token = Self { place: place.to_owned(), module };
        let settings = format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", token.tokens().display());
        fs::write(token.settings(), settings).expect("write");
        token.set_pin("1234");
        let made = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "ops", "--so-pin", "12345678", "--pin", "1234"])
            .env("SOFTHSM2_CONF", token.settings())
            .output()
            .expect("softhsm2-util is not installed; tests/run does it");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        token
    }

    fn tokens(&self) -> PathBuf {
        self.place.join("tokens")
    }

    /// The file that SOFTHSM2_CONF names.
    pub fn settings(&self) -> PathBuf {
        self.place.join("softhsm2.conf")
    }

    /// A key in it, as RFC 7512 names it.
    pub fn uri(&self, object: &str) -> String {
        format!("pkcs11:token=ops;object={object}?module-path={}&pin-source=file:{}", self.module, self.pin().display())
    }

    fn pin(&self) -> PathBuf {
        self.place.join("pin")
    }

    /// Writes the file that the URI names for the PIN.
    pub fn set_pin(&self, pin: &str) {
        fs::write(self.pin(), format!("{pin}\n")).expect("write");
        fs::set_permissions(self.pin(), fs::Permissions::from_mode(0o600)).expect("chmod");
    }

    /// Pulls it out.
    pub fn take_away(&self) {
        fs::rename(self.tokens(), self.place.join("away")).expect("it was there");
    }

    /// Plugs it in again.
    pub fn put_back(&self) {
        fs::rename(self.place.join("away"), self.tokens()).expect("it was away");
    }
}
