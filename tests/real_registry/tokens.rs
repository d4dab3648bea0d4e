//! A registry that accepts only the tokens of one server, and that server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use oci_puller::ErrorKind;
use oci_puller::credentials::Credential;
use oci_puller::image::Platform;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::access::PASSWORD;
use crate::images::{Layout, assert_identical};
use crate::real::{DockerRegistry, run};
use crate::{Test, service_with};

pub const TESTS: &[Test] = &[("a_token_server_is_asked_once_for_a_pull", TOOLS, one_token_for_a_pull)];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci", "openssl"];

fn one_token_for_a_pull() {
    let tokens = TokenServer::start();
    let registry = DockerRegistry::start_with(tokens.settings());
    let credentials = format!("alice:{PASSWORD}");
    let name = Layout::by_umoci().push(&registry, "team/app:v1", &["--dest-creds", &credentials]);
    let given_to_skopeo = tokens.given().len();

    let (_folder, service) =
        service_with(|builder| builder.credential(registry.host(), Credential::basic("alice", PASSWORD)));
    let pulled = service.pull(&*name).unwrap();
    assert_identical(&service, &registry, ("team/app", "v1"), &Platform::host().architecture, &pulled);
    assert_eq!(tokens.given()[given_to_skopeo..], [["repository:team/app:pull"]]);

    let (_folder, service) =
        service_with(|builder| builder.credential(registry.host(), Credential::basic("alice", "wrong")));
    assert_eq!(service.pull(&*name).unwrap_err().kind(), ErrorKind::Unauthorized);
}

/// Gives alice tokens, signed with a key of its own. Of
/// [this form](https://distribution.github.io/distribution/spec/auth/jwt/).
struct TokenServer {
    address: SocketAddr,
    issuer: Arc<Issuer>,
    worker: Option<JoinHandle<()>>,
}

struct Issuer {
    /// Of the key, and of the certificate by which the registry knows it.
    folder: TempDir,
    given: Mutex<Vec<Vec<String>>>,
}

const SERVICE: &str = "a registry";
const ISSUER: &str = "a token server";

impl TokenServer {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = Arc::new(Issuer::new());
        let worker = {
            let issuer = Arc::clone(&issuer);
            thread::spawn(move || {
                while let Some(request) = Request::read(listener.accept().unwrap().0) {
                    issuer.answer(request);
                }
            })
        };
        TokenServer { address, issuer, worker: Some(worker) }
    }

    /// Returns the settings of a registry that accepts the server's tokens.
    fn settings(&self) -> Value {
        json!({ "auth": { "token": {
            "realm": format!("http://{}/token", self.address),
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": self.issuer.file("certificate.pem"),
        }}})
    }

    /// The scopes of each token that was given out, in order.
    fn given(&self) -> Vec<Vec<String>> {
        self.issuer.given.lock().clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        // A connection without a request ends it.
        drop(TcpStream::connect(self.address));
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

impl Issuer {
    fn new() -> Self {
        let issuer = Issuer { folder: tempfile::tempdir().unwrap(), given: Mutex::default() };
        let (key, certificate) = (issuer.file("key.pem"), issuer.file("certificate.pem"));
        let kind = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tokens"];
        run("openssl", kind.into_iter().chain(["-keyout", &*key, "-out", &*certificate]));
        issuer
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn answer(&self, request: Request) {
        let alice = BASE64_STANDARD.encode(format!("alice:{PASSWORD}"));
        if request.authorization != format!("Basic {alice}") {
            return request.answer("401 Unauthorized", &json!({ "details": "who are you?" }));
        }
        let token = self.token(&request.scopes);
        self.given.lock().push(request.scopes.clone());
        request.answer("200 OK", &json!({ "token": token, "expires_in": 300 }));
    }

    fn token(&self, scopes: &[String]) -> String {
        let certificate = fs::read_to_string(self.file("certificate.pem")).unwrap();
        let der: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
        let claims = json!({
            "iss": ISSUER,
            "sub": "alice",
            "aud": SERVICE,
            "nbf": now - 10,
            "exp": now + 300,
            "access": scopes.iter().map(|scope| access(scope)).collect::<Vec<_>>(),
        });
        let encode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(part);
        let text =
            format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()));
        format!("{text}.{}", encode(&self.sign(&text)))
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        let (key, file) = (self.file("key.pem"), self.file("to-sign"));
        fs::write(&file, text).unwrap();
        run("openssl", ["dgst", "-sha256", "-sign", &*key, &*file])
    }
}

/// `repository:team/app:pull,push` as a token has it.
fn access(scope: &str) -> Value {
    let parts: Vec<&str> = scope.split(':').collect();
    let [kind, name, actions] = parts[..] else { panic!("{scope} is no scope") };
    json!({ "type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>() })
}

/// A request for a token.
struct Request {
    connection: TcpStream,
    scopes: Vec<String>,
    authorization: String,
}

impl Request {
    /// `None` if the connection ends before a request came.
    fn read(connection: TcpStream) -> Option<Self> {
        let lines = BufReader::new(&connection).lines().map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        let target = head.first()?.split(' ').nth(1).unwrap();
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let scopes = query.split('&').filter_map(|pair| pair.strip_prefix("scope="));
        let scopes = scopes.map(decoded).collect();
        let mut headers = head.iter().filter_map(|line| line.split_once(": "));
        let authorization = headers.find(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization.map_or("", |(_, value)| value).to_owned();
        Some(Request { connection, scopes, authorization })
    }

    fn answer(mut self, status: &str, body: &Value) {
        let body = body.to_string();
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        self.connection.write_all((head + &body).as_bytes()).unwrap();
    }
}

/// Without the `%` escapes that a scope may have.
fn decoded(text: &str) -> String {
    [("%3A", ":"), ("%2F", "/"), ("%2C", ",")]
        .iter()
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}
