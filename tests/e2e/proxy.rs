//! Starting real proxies from Debian's packages in front of the real server, with the configurations of tuning/proxies.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::server::eventually;

/// A proxy that runs until it is dropped.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // SAFETY: sends a signal to a child that has not been waited for, so its number is still its own. On this
        // signal the proxy ends its workers too.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let _ = self.child.wait();
    }
}

/// A configuration of tuning/proxies.
pub fn shipped(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/proxies").join(name)).unwrap()
}

/// Replaces a text, which must be there.
pub fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "the configuration has no {from:?}");
    text.replace(from, to)
}

/// A free port below 32768: the kernel does not give it away for port 0, so it is still free when the proxy starts.
fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let mut ports = std::iter::repeat_with(|| {
        let number = std::process::id() * 8 + TAKEN.fetch_add(1, Ordering::Relaxed);
        20_000 + (number % 10_000) as u16
    });
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// Starts a proxy on a free port; `configure` writes its configuration and returns its arguments.
pub fn start(program: &str, configure: impl Fn(&Path, u16) -> Vec<String>) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let arguments = configure(folder.path(), port);
    let child = Command::new(program)
        .args(&arguments)
        .env("HOME", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("said")).unwrap())
        .spawn()
        .unwrap_or_else(|error| panic!("the tests need {program} (Debian: nginx haproxy caddy): {error}"));
    let mut proxy = Proxy { child, address: ([127, 0, 0, 1], port).into(), _folder: folder };
    eventually(&format!("{program} listens"), || {
        if let Some(status) = proxy.child.try_wait().unwrap() {
            panic!("{status}: {}", std::fs::read_to_string(proxy._folder.path().join("said")).unwrap());
        }
        TcpStream::connect(proxy.address).ok()
    });
    proxy
}

/// nginx with one process.
pub fn nginx(backend: SocketAddr) -> Proxy {
    start("/usr/sbin/nginx", |folder, port| {
        let body = replace(&shipped("nginx.conf"), "listen 80;", &format!("listen 127.0.0.1:{port};"));
        let body = replace(&body, "server 127.0.0.1:8080;", &format!("server {backend};"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|what| format!("{what}_temp_path {}/{what};\n", folder.display()))
            .concat();
        let text = format!(
            "daemon off;\nworker_processes 1;\npid {0}/pid;\nerror_log stderr;\nevents {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\n\
             {temporary}{body}}}\n",
            folder.display()
        );
        let file = folder.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        ["-p", &folder.display().to_string(), "-e", "stderr", "-c", &file.display().to_string()].map(Into::into).into()
    })
}
