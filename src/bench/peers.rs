//! The other servers that the harness can start, each on one core.

use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{BenchError, io_error};

/// The configuration of nginx.
const NCHAN: &str = include_str!("../../benches/peers/nchan.conf");
/// The folder of nginx's modules in Debian.
const MODULE_FOLDERS: [&str; 3] = ["/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules"];

/// nginx with Nchan, set up in `folder`.
pub(super) fn nchan(address: SocketAddrV4, folder: &Path) -> Result<Command, BenchError> {
    let nginx = PathBuf::from("/usr/sbin/nginx");
    let modules = MODULE_FOLDERS.iter().find(|folder| Path::new(folder).join("ngx_nchan_module.so").exists());
    let (true, Some(modules)) = (nginx.exists(), modules) else {
        let text = "nginx with Nchan is not installed: apt install nginx libnginx-mod-nchan, or leave nchan out \
                    of --peers";
        return Err(BenchError::Target(text.to_owned()));
    };
    let text = NCHAN
        .replace("__PORT__", &address.port().to_string())
        .replace("__FOLDER__", &folder.display().to_string())
        .replace("__MODULES__", modules);
    let path = folder.join("nchan.conf");
    std::fs::write(&path, text).map_err(io_error("writing nginx's configuration"))?;
    let mut command = Command::new(nginx);
    command.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(path);
    Ok(command)
}

/// The example on axum, which `cargo build --examples` puts beside this program.
pub(super) fn axum(address: SocketAddrV4) -> Result<Command, BenchError> {
    let own = std::env::current_exe().map_err(io_error("finding this program"))?;
    let example = own.with_file_name("examples").join("axum_broadcast");
    if !example.exists() {
        let path = example.display();
        let text = format!(
            "{path} is not there: cargo build --release --example axum_broadcast, or leave axum out of --peers"
        );
        return Err(BenchError::Target(text));
    }
    let mut command = Command::new(example);
    command.arg(address.to_string());
    Ok(command)
}
