//! The document as a page for people: no script, nothing from elsewhere.

use std::fmt::Write as _;

use serde_json::Value;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1c1c1e;background:#fff}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}code{font:14px ui-monospace,monospace}\
article{margin:1.5rem 0}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;\
padding:.25rem .75rem .25rem 0;border-bottom:1px solid #eee}.method{display:inline-block;min-width:3.5rem;font-weight:700}\
@media(prefers-color-scheme:dark){body{color:#eee;background:#1c1c1e}td,th{border-color:#333}}";

/// The page of a document.
pub(crate) fn page(document: &Value) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>orch API</title><style>{STYLE}</style><h1>orch API {}</h1><p>{}</p>",
        text(&document["info"]["version"]),
        text(&document["info"]["description"]),
    );
    for tag in document["tags"].as_array().into_iter().flatten() {
        let name = &tag["name"];
        let _ = write!(html, "<h2 id=\"{0}\">{0}</h2>", text(name));
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in methods.as_object().into_iter().flatten() {
                if operation["tags"][0] == *name {
                    article(&mut html, method, path, operation);
                }
            }
        }
    }
    html.push_str("</html>");
    html
}

fn article(html: &mut String, method: &str, path: &str, operation: &Value) {
    let (method, path) = (escape(&method.to_uppercase()), escape(path));
    let id = text(&operation["operationId"]);
    let _ = write!(
        html,
        "<article id=\"{id}\"><h3><code><span class=\"method\">{method}</span> {path}</code></h3>"
    );
    let _ = write!(html, "<p>{}</p>", text(&operation["summary"]));
    if let Some(scope) = operation["security"][0]["bearer"][0].as_str() {
        let _ = write!(html, "<p>Scope: <code>{}</code></p>", escape(scope));
    }
    html.push_str("<table><tbody>");
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let needed = if parameter["required"] == true { ", required" } else { "" };
        let (name, place) = (text(&parameter["name"]), text(&parameter["in"]));
        let said = text(&parameter["description"]);
        let _ = write!(html, "<tr><td><code>{name}</code></td><td>{place}{needed}</td><td>{said}</td></tr>");
    }
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let said = text(&response["description"]);
        let _ =
            write!(html, "<tr><td><code>{}</code></td><td>answer</td><td>{said}</td></tr>", escape(status));
    }
    html.push_str("</tbody></table></article>");
}

fn text(value: &Value) -> String {
    escape(value.as_str().unwrap_or(""))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
