//! The same for several things, each of which may fail by itself.

use super::Done;
use crate::{
    cli::{failure::Failure, output::Output, show::Named},
    client::ClientError,
};

/// What became of them.
pub struct Each<T> {
    pub done: Vec<T>,
    pub failed: Failed,
}

#[derive(Default)]
pub struct Failed(Vec<Failure>);

impl<T> Each<T> {
    /// All are tried, whatever became of the others; without a daemon none is.
    pub async fn of<F>(names: Vec<String>, mut work: F) -> Each<T>
    where
        F: AsyncFnMut(String) -> Result<T, Failure>,
    {
        let mut each = Each {
            done: Vec::new(),
            failed: Failed::default(),
        };
        for name in names {
            match work(name).await {
                Ok(done) => each.done.push(done),
                Err(failure) => {
                    let over = matches!(
                        failure,
                        Failure::Client(ClientError::Unreachable { .. } | ClientError::Lost { .. })
                    );
                    each.failed.0.push(failure);
                    if over {
                        break;
                    }
                }
            }
        }
        each
    }
}

impl Each<Named> {
    /// One thing is an object, several are an array, as elsewhere.
    pub fn show(self, is_one: bool, output: &Output) -> Done {
        let Each { mut done, failed } = self;
        match done.pop() {
            Some(one) if is_one => output.show(&one)?,
            Some(last) => {
                done.push(last);
                output.show(&done)?;
            }
            None => {}
        }
        failed.into_result()
    }
}

impl Failed {
    pub fn into_result(mut self) -> Done {
        match (self.0.len(), self.0.pop()) {
            (_, None) => Ok(()),
            (1, Some(only)) => Err(only),
            (_, Some(last)) => {
                self.0.push(last);
                Err(Failure::Several(self.0))
            }
        }
    }
}
