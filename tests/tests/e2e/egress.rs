//! What agents ask of the web: what passes, what doesn't, and that nothing gets around it.

use protocol::{
    Code, Problem,
    api::{Agent, Limits},
    grant::Grants,
    manifest::Import,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, Plugin, Publisher, value};

use crate::web::Web;

const LOOPBACK: &str = "127.0.0.0/8,::1";

fn grants(hosts: &[&str]) -> Grants {
    Grants { http: hosts.iter().map(|host| host.parse().expect("a host")).collect(), agents: vec!["*".parse().expect("all")] }
}

/// The fixture, signed by somebody whom the node trusts.
async fn plugin(node: &Node) -> Plugin {
    let publisher = Publisher::new();
    let plugin = publisher.sign("reaching", kernel::fixture::reaching(), &[Import::Http, Import::Agents]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("the fixture is sound");
    plugin
}

/// A node that allows these hosts and networks, with agent `web` to which the hosts are granted.
async fn reaching(allow: &[&str], networks: &str, limits: Limits) -> (Cluster, Node, Agent) {
    let cluster = Cluster::new();
    let node = cluster.node("a").set("kernel.http_allow", &allow.join(",")).set("kernel.http_networks", networks).start().await;
    let plugin = plugin(&node).await;
    let agent = node.spawn_with("web", &plugin, Some(limits), grants(allow)).await.expect("allowed");
    (cluster, node, agent)
}

async fn ask(node: &Node, method: &str, url: &str) -> Result<Value, Problem> {
    node.execute("web", method, &json!({ "url": url })).await.map(|executed| value(&executed))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_allowed_is_reached_and_what_is_sent_is_metered() {
    let (web, other) = (Web::start().await, Web::start().await);
    let (_cluster, node, agent) = reaching(&[&web.host()], LOOPBACK, Limits::default()).await;
    assert_eq!(ask(&node, "fetch", &web.url("/json")).await.expect("reached"), json!({ "ok": true }));
    assert_eq!(ask(&node, "status", &web.url("/json")).await.expect("reached"), json!(200));
    web.seen();

    let params = json!({ "url": web.url("/echo"), "with": "a body" });
    let posted = node.execute("web", "post", &params).await.expect("reached");
    let sent = web.seen().pop().expect("a request");
    assert_eq!(value(&posted), json!(sent), "the plugin sees what the server said");
    let head = sent.to_lowercase();
    assert!(head.starts_with("post /echo http/1.1\r\n") && head.contains("\r\nx-plugin: fixture\r\n"), "{sent}");
    assert!(head.contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", web.port())) && sent.ends_with(&params.to_string()), "{sent}");
    // What went over the wire and the result; who delimits the body is not the plugin's concern.
    let ours = format!("content-length: {}\r\n", params.to_string().len());
    let result = posted.result.get().len();
    assert_eq!(posted.usage.egress_bytes, (sent.len() - ours.len() + result) as u64, "{sent}");

    // What isn't listed isn't asked, whatever it is called.
    for url in [other.url("/json"), format!("http://localhost:{}/json", web.port()), format!("https://127.0.0.1:{}/", web.port())] {
        let refused = ask(&node, "fetch", &url).await.expect_err("not granted");
        assert!(refused.code == Code::PluginFailed && refused.detail.contains("was not granted"), "{url}: {refused}");
    }
    let smuggled = ask(&node, "fetch", &format!("http://127.0.0.1:{}@localhost/", web.port())).await.expect_err("refused");
    assert!(smuggled.detail.contains("user and password"), "{smuggled}");
    assert!(other.seen().is_empty() && web.seen().is_empty());

    // What it may reach is the operator's to know, and in no advert.
    let shown = node.json(&["agent", "show", "web"]).await;
    assert_eq!(shown["grants"], json!({ "http": [web.host()], "agents": ["*"] }));
    let text = node.mcpctl(&["agent", "show", "web"]).await.exits(0).stdout;
    assert!(text.contains(&format!("{}, any agent", web.host())), "{text}");
    let offered = node.json(&["discover", "reaching.fetch"]).await;
    assert!(offered.to_string().contains(&agent.id.to_string()) && !offered.to_string().contains("127.0.0.1:"), "{offered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_name_does_not_lead_into_the_nodes_own_network() {
    let web = Web::start().await;
    let (by_name, by_address) = (format!("http://localhost:{}", web.port()), web.host());
    let mapped = format!("http://[::ffff:127.0.0.1]:{}", web.port());
    let hosts = [by_name.as_str(), by_address.as_str(), mapped.as_str(), "http://169.254.169.254", "http://[fd00:ec2::254]"];
    let (_cluster, node, _) = reaching(&hosts, "10.0.0.0/8", Limits::default()).await;
    for url in hosts {
        let refused = ask(&node, "fetch", url).await.expect_err("not public");
        assert!(refused.detail.contains("does not allow") && !refused.detail.contains("::1"), "{url}: {refused}");
    }
    assert!(web.seen().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_answers_and_answers_are_bounded() {
    let web = Web::start().await;
    let (_cluster, node, _) = reaching(&[&web.host()], LOOPBACK, Limits::default()).await;
    assert_eq!(ask(&node, "fetch", &web.url("/redirect")).await.expect("an answer"), json!({ "redirected": false }));
    assert_eq!(ask(&node, "status", &web.url("/redirect")).await.expect("an answer"), json!(302));
    assert_eq!(web.seen().len(), 2, "nobody followed");
    for (path, why) in [("/large", "more than"), ("/endless", "more than"), ("/headers", "exchange failed")] {
        let refused = ask(&node, "fetch", &web.url(path)).await.expect_err("too much");
        assert!(refused.code == Code::PluginFailed && refused.detail.contains(why), "{path}: {refused}");
    }
    assert_eq!(ask(&node, "fetch", &web.url("/json")).await.expect("it lives on"), json!({ "ok": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for_no_longer_than_the_call_may_take() {
    let web = Web::start().await;
    let (_cluster, node, _) = reaching(&[&web.host()], LOOPBACK, Limits { wall_ms: 400, ..Limits::default() }).await;
    assert_eq!(ask(&node, "fetch", &web.url("/slow")).await.expect_err("stopped").code, Code::TimedOut);
    // It was metered and traced like any call that failed: what it sent had left.
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let items = traced["items"].as_array().expect("items");
    let failed = items.iter().find(|item| item["entry"]["failure"] == "timed_out").expect("traced");
    assert!(failed["entry"]["usage"]["egress_bytes"].as_u64().is_some_and(|bytes| bytes > 50), "{failed}");
    assert_eq!(ask(&node, "fetch", &web.url("/json")).await.expect("it lives on"), json!({ "ok": true }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_sends_is_limited() {
    let web = Web::start().await;
    let (_cluster, node, _) = reaching(&[&web.host()], LOOPBACK, Limits { egress_bytes: 1_000, ..Limits::default() }).await;
    let post = async |length: usize| {
        let params = json!({ "url": web.url("/json"), "with": "x".repeat(length) });
        node.execute("web", "post", &params).await
    };
    post(100).await.expect("within the limit");
    assert_eq!(post(2_000).await.expect_err("over the limit").code, Code::EgressQuota);
    assert_eq!(web.seen().len(), 1, "nothing left");
    // A longer body than any request may have.
    let (_cluster, node, _) = reaching(&[&web.host()], LOOPBACK, Limits::default()).await;
    let params = json!({ "url": web.url("/json"), "with": "x".repeat(1 << 20) });
    let refused = node.execute("web", "post", &params).await.expect_err("too long");
    assert!(refused.detail.contains("at most 1048576"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified_for_the_host_that_was_asked() {
    let (web, authority) = Web::with_tls().await;
    let (trusted, stranger) = (format!("localhost:{}", web.port()), format!("127.0.0.1:{}", web.port()));
    let cluster = Cluster::new();
    let roots = cluster.place().join("roots.pem");
    std::fs::write(&roots, authority).expect("written");
    let node = |name: &str| {
        let node = cluster.node(name).set("kernel.http_allow", &format!("{trusted},{stranger}"));
        node.set("kernel.http_networks", LOOPBACK)
    };
    let knows = node("knows").set("kernel.http_roots", roots.to_str().expect("UTF-8")).start().await;
    let knows_not = node("knows-not").start().await;
    for node in [&knows, &knows_not] {
        let plugin = plugin(node).await;
        node.spawn_with("web", &plugin, None, grants(&[&trusted, &stranger])).await.expect("allowed");
    }
    let fetch = async |node: &Node, host: &str| ask(node, "fetch", &format!("https://{host}/json")).await;
    assert_eq!(fetch(&knows, &trusted).await.expect("it is localhost's"), json!({ "ok": true }));
    let wrong = fetch(&knows, &stranger).await.expect_err("a certificate for another name");
    assert!(wrong.detail.contains("TLS failed"), "{wrong}");
    let unknown = fetch(&knows_not, &trusted).await.expect_err("an unknown authority");
    assert!(unknown.detail.contains("TLS failed"), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_needs_the_agents_grant_and_the_nodes_leave() {
    let cluster = Cluster::new();
    let node = cluster.node("a").set("kernel.http_allow", "*.example.com").start().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let plugin = publisher.sign("reaching", kernel::fixture::reaching(), &[Import::Http, Import::Agents]);
    let file = cluster.place().join("reaching.wasm");
    std::fs::write(&file, &plugin.component).expect("written");
    std::fs::write(file.with_extension("manifest.json"), serde_json::to_vec(&plugin.manifest).expect("JSON")).expect("written");
    let spawn = async |grants: &[&str]| {
        let arguments = [&["agent", "spawn", "web", "--json", "--plugin", file.to_str().expect("UTF-8")], grants].concat();
        node.mcpctl(&arguments).await
    };
    let hint = |problem: &Value| problem["hint"].as_str().unwrap_or_default().to_owned();
    for (grants, told) in [
        (&[][..], "--allow-http"),
        (&["--allow-http", "api.example.com"], "--allow-agent"),
        (&["--allow-agent", "*"], "--allow-http"),
        (&["--allow-http", "api.example.org", "--allow-agent", "*"], "kernel.http_allow"),
        (&["--allow-http", "*", "--allow-agent", "*"], "kernel.http_allow"),
        (&["--allow-http", "http://api.example.com", "--allow-agent", "*"], "kernel.http_allow"),
    ] {
        let refused = spawn(grants).await.exits(5).json();
        assert!(refused["code"] == "import_denied" && hint(&refused).contains(told), "{grants:?}: {refused}");
    }
    assert!(spawn(&["--allow-http", "a/b"]).await.exits(2).stderr.contains("is not a host"));
    let granted = ["--allow-http", "api.example.com", "--allow-http", "*.eu.example.com", "--allow-agent", "docs"];
    let agent = spawn(&granted).await.exits(0).json();
    assert_eq!(agent["grants"], json!({ "http": ["api.example.com", "*.eu.example.com"], "agents": ["docs"] }));

    // They are changed with an upgrade, be it to the same release, and kept over a restart.
    let upgrade =
        ["agent", "upgrade", "web", "--plugin", file.to_str().expect("UTF-8"), "--allow-http", "b.example.com", "--allow-agent", "*"];
    assert_eq!(node.json(&upgrade).await["grants"], json!({ "http": ["b.example.com"], "agents": ["*"] }));
    let mut node = node;
    node.restart().await;
    assert_eq!(node.json(&["agent", "show", "web"]).await["grants"]["http"], json!(["b.example.com"]));

    // An export says nothing of them: whoever imports it says what the agent may reach there.
    let export = cluster.place().join("web.agent");
    let export = export.to_str().expect("UTF-8");
    node.json(&["agent", "export", "web", export]).await;
    let import = ["agent", "import", export, "--as", "again", "--json"];
    assert_eq!(node.mcpctl(&import).await.exits(5).json()["code"], "import_denied");
    let imported = node.json(&[&import[..5], &["--allow-http", "c.example.com", "--allow-agent", "*"]].concat()).await;
    assert_eq!(imported["grants"]["http"], json!(["c.example.com"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_forbids_no_plugin_imports() {
    let cluster = Cluster::new();
    let node = cluster.node("a").set("kernel.imports", "state,log").set("kernel.http_allow", "*").start().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let refused = async |component: Vec<u8>, imports: &[Import]| {
        node.register(&publisher.sign("reaching", component, imports)).await.expect_err("refused")
    };
    let forbidden = refused(kernel::fixture::reaching(), &[Import::Http, Import::Agents]).await;
    assert_eq!(forbidden.code, Code::ImportDenied, "{forbidden}");
    assert!(forbidden.detail.contains("http") && forbidden.hint.is_some_and(|hint| hint.contains("kernel.imports")));
    // What its manifest doesn't ask for, and WASI, whatever it asks for, stay out too.
    let undeclared = refused(kernel::fixture::reaching(), &[]).await;
    assert!(undeclared.code == Code::InvalidPlugin && undeclared.detail.contains("add \""), "{undeclared}");
    for interface in
        ["wasi:http/outgoing-handler@0.2.0", "wasi:clocks/wall-clock@0.2.0", "wasi:random/random@0.2.0", "wasi:cli/environment@0.2.0"]
    {
        let refused = refused(importing(interface), &[Import::State]).await;
        assert!(refused.code == Code::InvalidPlugin && refused.detail.contains("no WASI"), "{interface}: {refused}");
    }
    node.host("counter", "demo", crate::fixtures::counter()).await;
}

/// A component that imports an empty instance of this name.
fn importing(name: &str) -> Vec<u8> {
    let mut import = vec![0, u8::try_from(name.len()).expect("short")];
    import.extend_from_slice(name.as_bytes());
    import.extend([5, 0]);
    let section = |id: u8, content: &[u8]| [&[id, u8::try_from(content.len()).expect("short")], content].concat();
    // One type, an instance without exports; one import, of that type.
    [b"\0asm\x0d\0\x01\0".to_vec(), section(7, &[1, 0x42, 0]), section(10, &[&[1], import.as_slice()].concat())].concat()
}
