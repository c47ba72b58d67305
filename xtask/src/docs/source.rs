//! What the pages need of a Rust source file.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use quote::ToTokens;
use syn::{Attribute, Expr, Fields, GenericArgument, Item, Lit, Meta, PathArguments, Type};

/// A source file, taken apart.
pub struct Source {
    /// Name of the file without its ending.
    pub name: String,
    pub text: String,
    items: Vec<Item>,
    attributes: Vec<Attribute>,
}

pub struct Structure {
    pub name: String,
    pub about: String,
    pub fields: Vec<Field>,
    /// Type and bytes, as `assert_layout!` says; two for a generic one.
    pub sizes: Vec<(String, String)>,
}

pub struct Field {
    pub name: String,
    pub of: String,
    pub about: String,
}

pub struct Constant {
    pub name: String,
    pub value: String,
    pub about: String,
}

/// `type Name<parameter> = of`.
pub struct Alias {
    pub name: String,
    pub about: String,
    pub parameter: Option<String>,
    pub of: Applied,
}

/// A static with `#[btf_map(name = "…")]`.
pub struct Map {
    pub name: String,
    pub of: Applied,
}

/// A type with its arguments, such as `HashMap` of key, value and size.
#[derive(Clone)]
pub struct Applied {
    pub name: String,
    pub arguments: Vec<String>,
}

impl Source {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default();
        let file =
            syn::parse_file(&text).with_context(|| format!("cannot parse {}", path.display()))?;
        Ok(Source {
            name: name.to_string_lossy().into_owned(),
            text,
            items: file.items,
            attributes: file.attrs,
        })
    }

    /// The documentation of the module.
    pub fn about(&self) -> String {
        about(&self.attributes)
    }

    pub fn structures(&self) -> Vec<Structure> {
        let structures = self.items.iter().filter_map(|item| match item {
            Item::Struct(item) => Some(item),
            _ => None,
        });
        structures
            .map(|item| {
                let name = item.ident.to_string();
                Structure {
                    about: about(&item.attrs),
                    fields: fields(&item.fields),
                    sizes: self.sizes(&name),
                    name,
                }
            })
            .collect()
    }

    /// What the file's `assert_layout!` say of a type.
    fn sizes(&self, structure: &str) -> Vec<(String, String)> {
        let asserted = self.items.iter().filter_map(|item| match item {
            Item::Macro(item)
                if item.mac.path.is_ident("assert_layout") && !is_next(&item.attrs) =>
            {
                let arguments = text_of(&item.mac.tokens);
                let mut arguments = arguments.split(", ").map(str::to_owned);
                Some((arguments.next()?, arguments.collect::<Vec<_>>()))
            }
            _ => None,
        });
        asserted
            .flat_map(|(of, sizes)| match sizes.len() {
                // Of the two families.
                2 => ["[u8; 4]", "[u8; 16]"]
                    .map(|addr| of.replace("_>", &format!("{addr}>")))
                    .into_iter()
                    .zip(sizes)
                    .collect(),
                _ => sizes
                    .into_iter()
                    .map(|size| (of.clone(), size))
                    .collect::<Vec<_>>(),
            })
            .filter(|(of, _)| of.split('<').next() == Some(structure))
            .collect()
    }

    pub fn constants(&self) -> Vec<Constant> {
        let constants = self.items.iter().filter_map(|item| match item {
            Item::Const(item) if item.ident != "_" => Some(item),
            _ => None,
        });
        constants
            .map(|item| Constant {
                name: item.ident.to_string(),
                value: item.expr.to_token_stream().to_string(),
                about: about(&item.attrs),
            })
            .collect()
    }

    pub fn aliases(&self) -> Vec<Alias> {
        let aliases = self.items.iter().filter_map(|item| match item {
            Item::Type(item) => Some(item),
            _ => None,
        });
        aliases
            .map(|item| Alias {
                name: item.ident.to_string(),
                about: about(&item.attrs),
                parameter: item
                    .generics
                    .type_params()
                    .next()
                    .map(|p| p.ident.to_string()),
                of: applied(&item.ty),
            })
            .collect()
    }

    pub fn maps(&self) -> Vec<Map> {
        let maps = self.items.iter().filter_map(|item| match item {
            Item::Static(item) => Some((pinned_name(&item.attrs)?, &item.ty)),
            _ => None,
        });
        maps.map(|(name, of)| Map {
            name,
            of: applied(of),
        })
        .collect()
    }
}

/// Whether it is there for tests of upgrades alone: `#[cfg(feature = "next-…")]`.
fn is_next(attributes: &[Attribute]) -> bool {
    let mut conditions = attributes.iter().filter(|a| a.path().is_ident("cfg"));
    conditions.any(
        |condition| match condition.parse_args::<syn::MetaNameValue>() {
            Ok(only) => string(&only.value).is_some_and(|feature| feature.starts_with("next-")),
            Err(_) => false,
        },
    )
}

fn pinned_name(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|a| a.path().is_ident("btf_map"))?;
    let value: syn::MetaNameValue = attribute.parse_args().ok()?;
    string(&value.value)
}

fn fields(fields: &Fields) -> Vec<Field> {
    fields
        .iter()
        .filter(|field| !is_next(&field.attrs))
        .map(|field| Field {
            name: field
                .ident
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            of: text_of(&field.ty),
            about: about(&field.attrs),
        })
        .collect()
}

fn applied(of: &Type) -> Applied {
    let segment = match of {
        Type::Path(path) => path.path.segments.last(),
        _ => None,
    };
    let Some(segment) = segment else {
        return Applied {
            name: text_of(of),
            arguments: Vec::new(),
        };
    };
    let arguments = match &segment.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .map(GenericArgument::to_token_stream)
            .collect(),
        _ => Vec::new(),
    };
    Applied {
        name: segment.ident.to_string(),
        arguments: arguments.iter().map(text_of).collect(),
    }
}

/// A type as one writes it.
fn text_of(tokens: &impl ToTokens) -> String {
    let dense: String = tokens
        .to_token_stream()
        .to_string()
        .split_whitespace()
        .collect();
    dense.replace(';', "; ").replace(',', ", ")
}

fn string(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

/// A documentation comment, its paragraphs one line each.
fn about(attributes: &[Attribute]) -> String {
    let mut paragraphs = vec![String::new()];
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else {
            continue;
        };
        if !meta.path.is_ident("doc") {
            continue;
        }
        let line = string(&meta.value).unwrap_or_default();
        let line = line.trim();
        match paragraphs.last_mut() {
            Some(_) if line.is_empty() => paragraphs.push(String::new()),
            Some(paragraph) if paragraph.is_empty() => paragraph.push_str(line),
            Some(paragraph) => {
                paragraph.push(' ');
                paragraph.push_str(line);
            }
            None => {}
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    without_links(&paragraphs.join("\n\n"))
}

/// ``[`crate::maps::Port`]`` is a link for rustdoc alone; what is left is `` `Port` ``.
fn without_links(text: &str) -> String {
    let mut parts = text.split("[`");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (path, rest) = part.split_once("`]").unwrap_or((part, ""));
        let name = path.rsplit("::").next().unwrap_or(path);
        plain.push_str(&format!("`{name}`{rest}"));
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_names() {
        assert_eq!(
            without_links("as in [`crate::a::B`], [`C`]."),
            "as in `B`, `C`."
        );
        assert_eq!(without_links("plain [text]"), "plain [text]");
    }
}
