//! The parameters of a request to the admin API.

use super::error::AdminError;
use url::form_urlencoded;

/// The parameters. One that is not known is an error: a misspelt `dry_run` must not remove anything.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Those of a request's query, `a=1&b=2`.
    pub(super) fn parse(query: &str) -> Self {
        Self(
            form_urlencoded::parse(query.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// All values of a parameter that may be given several times.
    pub(super) fn take_all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0)
            .into_iter()
            .partition::<Vec<_>, _>(|(given, _)| given == name);
        self.0 = left;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// It is given twice.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, AdminError> {
        let mut values = self.take_all(name).into_iter();
        let (value, another) = (values.next(), values.next());
        if another.is_some() {
            return Err(AdminError::bad(format!("{name} is given twice")));
        }
        Ok(value)
    }

    /// The value of a parameter that there must be.
    pub(super) fn need(&mut self, name: &str) -> Result<String, AdminError> {
        let value = self.take(name)?.filter(|value| !value.is_empty());
        value.ok_or_else(|| AdminError::bad(format!("{name} is missing; write ?{name}=…")))
    }

    /// A whole number.
    pub(super) fn number(&mut self, name: &str) -> Result<Option<usize>, AdminError> {
        let number = self.take(name)?.map(|value| value.parse()).transpose();
        number.map_err(|_| AdminError::bad(format!("{name} must be a number")))
    }

    /// `true` or `false`; given without a value it is true.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, AdminError> {
        match self.take(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1" | "") => Ok(true),
            Some(_) => Err(AdminError::bad(format!("{name} must be true or false"))),
        }
    }

    /// All that was asked has been understood.
    ///
    /// # Errors
    /// A parameter is left.
    pub(super) fn end(&self) -> Result<(), AdminError> {
        match self.0.first() {
            Some((name, _)) => Err(AdminError::bad(format!(
                "{name} is no parameter of this request"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_refused() {
        let mut query = Query::parse("image=a%3A1&image=b&dry_run&limit=3&all=0");
        assert_eq!(query.take_all("image"), ["a:1", "b"]);
        assert!(query.flag("dry_run").unwrap());
        assert!(!query.flag("all").unwrap());
        assert!(!query.flag("pin").unwrap());
        assert_eq!(query.number("limit").unwrap(), Some(3));
        query.end().unwrap();
        for bad in ["image=a&image=b", "image=", ""] {
            assert!(Query::parse(bad).need("image").is_err(), "{bad}");
        }
        assert!(Query::parse("dry_run=yes").flag("dry_run").is_err());
        assert!(Query::parse("limit=x").number("limit").is_err());
        assert!(Query::parse("dryrun=true").end().is_err());
    }
}
