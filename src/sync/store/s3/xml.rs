//! The XML that S3 speaks: what an answer says, and the two bodies that are sent.

use quick_xml::escape::{escape, resolve_predefined_entity};
use quick_xml::events::Event;
use std::fmt::Write as _;

/// An element that holds text alone: its name, and that of the element around it.
pub(super) struct Leaf<'a> {
    pub(super) around: &'a str,
    pub(super) name: &'a str,
    pub(super) text: String,
}

/// Gives every element without children to `each`, in their order, and returns the name of the outermost. `None` when it is no XML.
///
/// `each` is also given the end of an element with children, as a leaf without text, so that it knows when one is complete.
pub(super) fn read(xml: &[u8], each: &mut dyn FnMut(Leaf<'_>)) -> Option<String> {
    let mut reader = quick_xml::Reader::from_str(std::str::from_utf8(xml).ok()?);
    let mut open: Vec<(String, bool)> = Vec::new();
    let mut text = String::new();
    let mut outermost = None;
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                if let Some((_, has_children)) = open.last_mut() {
                    *has_children = true;
                }
                let name = tag.local_name().into_inner().to_owned();
                outermost.get_or_insert_with(|| name.clone());
                open.push((name, false));
                text.clear();
            }
            Event::Empty(tag) => {
                let name = tag.local_name().into_inner();
                let around = open.last_mut().map_or("", |(around, has_children)| {
                    *has_children = true;
                    around.as_str()
                });
                outermost.get_or_insert_with(|| name.to_owned());
                each(Leaf {
                    around,
                    name,
                    text: String::new(),
                });
            }
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(part) => match part.resolve_char_ref().ok()? {
                Some(char) => text.push(char),
                None => text.push_str(resolve_predefined_entity(&part)?),
            },
            Event::End(_) => {
                let (name, has_children) = open.pop()?;
                let around = open.last().map_or("", |(around, _)| around.as_str());
                let text = if has_children { String::new() } else { std::mem::take(&mut text) };
                each(Leaf { around, name: &name, text });
            }
            Event::Eof => return outermost.filter(|_| open.is_empty()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) | Event::DocType(_) => {}
        }
    }
}

/// The body of `DeleteObjects`.
pub(super) fn removal(keys: impl Iterator<Item = String>) -> String {
    let mut xml = String::from("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for key in keys {
        let _ = write!(xml, "<Object><Key>{}</Key></Object>", escape(&key));
    }
    xml.push_str("<Quiet>true</Quiet></Delete>");
    xml
}

/// The body of `CompleteMultipartUpload`: the parts' tags, the first part first.
pub(super) fn completion(etags: &[String]) -> String {
    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (before, etag) in etags.iter().enumerate() {
        let _ = write!(
            xml,
            "<Part><ETag>{}</ETag><PartNumber>{}</PartNumber></Part>",
            escape(etag),
            before + 1
        );
    }
    xml.push_str("</CompleteMultipartUpload>");
    xml
}

/// Whether XML 1.0 has a way to say this; what it has none for cannot be named in a body.
pub(super) fn can_say(text: &str) -> bool {
    !text
        .chars()
        .any(|char| char.is_control() || matches!(char, '\u{2028}' | '\u{fffe}' | '\u{ffff}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(xml: &str) -> (Option<String>, Vec<(String, String, String)>) {
        let mut found = Vec::new();
        let outermost = read(xml.as_bytes(), &mut |leaf| {
            found.push((leaf.around.to_owned(), leaf.name.to_owned(), leaf.text));
        });
        (outermost, found)
    }

    fn leaf(around: &str, name: &str, text: &str) -> (String, String, String) {
        (around.into(), name.into(), text.into())
    }

    #[test]
    fn elements_come_in_their_order_with_what_is_around_them() {
        let (outermost, found) = leaves(
            "<?xml version=\"1.0\"?>\n<!-- c --><List xmlns=\"x\"> <Key>a &amp; b&#x20;c</Key>\n<Contents><Key><![CDATA[<d>]]></Key><Size/></Contents></List>",
        );
        assert_eq!(outermost.as_deref(), Some("List"));
        let wanted = [
            leaf("List", "Key", "a & b c"),
            leaf("Contents", "Key", "<d>"),
            leaf("Contents", "Size", ""),
            leaf("List", "Contents", ""),
            leaf("", "List", ""),
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn what_is_cut_or_no_xml_is_refused() {
        for bad in ["<a><b>c</b>", "<a>&nothing;</a>", "<a></b>", "", "not xml", "<a>&#x110000;</a>"] {
            assert_eq!(leaves(bad).0, None, "{bad}");
        }
    }

    #[test]
    fn what_is_sent_is_read_as_it_was_meant() {
        let keys = ["a&b", "<c>\"'", "plain/ü"];
        assert!(keys.iter().all(|key| can_say(key)) && !can_say("line\nbreak") && !can_say("\u{2028}"));
        let (_, found) = leaves(&removal(keys.iter().map(|key| (*key).to_owned())));
        let said: Vec<_> = found
            .iter()
            .filter(|(_, name, _)| name == "Key")
            .map(|(_, _, text)| text.as_str())
            .collect();
        assert_eq!(said, keys);
        let (_, found) = leaves(&completion(&["\"1\"".into(), "\"2\"".into()]));
        let said: Vec<_> = found
            .iter()
            .filter(|(_, name, _)| name != "Part")
            .map(|(_, _, text)| text.as_str())
            .collect();
        assert_eq!(said, ["\"1\"", "1", "\"2\"", "2", ""]);
    }
}
