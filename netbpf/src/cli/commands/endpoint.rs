//! Endpoints and their published ports.

use super::{Done, each::Each};
use crate::{
    cli::{
        args::{Attach, Detach, InspectEndpoint, Port, Ps, Publish, Unpublish, Update},
        output::Output,
        show::{Detached, Details, PortsOf},
    },
    client::Client,
    model::{EndpointFilter, PublishSpec, UnpublishSpec, UpdateSpec},
};

pub async fn attach(args: Attach, client: &Client, output: &Output) -> Done {
    let what = format!("attaching {}", args.name);
    let made = output.during(&what, client.attach(&args.into())).await?;
    Ok(output.show(&made)?)
}

pub async fn detach(args: Detach, client: &Client, output: &Output) -> Done {
    let network = args.network.as_deref();
    let each = Each::of(args.names, async |name| {
        let what = format!("detaching {name}");
        Ok(output.during(&what, client.detach(&name, network)).await?)
    });
    let Each { done, failed } = each.await;
    // What is not there is no error, and nothing of a list.
    if !done.is_empty() {
        output.show(&Detached(done.into_iter().flatten().collect()))?;
    }
    failed.into_result()
}

pub async fn ps(args: Ps, client: &Client, output: &Output) -> Done {
    let filter = EndpointFilter {
        network: args.network,
        container_id: args.container,
    };
    Ok(output.show(&client.endpoints(&filter).await?)?)
}

/// One thing is an object, unless it was not said which one.
pub async fn inspect(args: InspectEndpoint, client: &Client, output: &Output) -> Done {
    let mut found = client.endpoint(&args.name, args.network.as_deref()).await?;
    match (found.len(), found.pop()) {
        (1, Some(one)) => output.show(&one)?,
        (_, last) => {
            found.extend(last);
            output.show(&Details(found))?;
        }
    }
    Ok(())
}

pub async fn publish(args: Publish, client: &Client, output: &Output) -> Done {
    let spec = PublishSpec {
        network: args.network,
        publish: args.publish,
        share: args.share,
    };
    let endpoint = client.publish(&args.name, &spec).await?;
    Ok(output.show(&PortsOf(endpoint))?)
}

pub async fn unpublish(args: Unpublish, client: &Client, output: &Output) -> Done {
    let spec = UnpublishSpec {
        network: args.network,
        publish: args.publish,
        // Seconds, and not none of what was asked for.
        drain: args
            .drain
            .map(|time| time.as_millis().div_ceil(1000) as u64),
    };
    let endpoint = client.unpublish(&args.name, &spec).await?;
    Ok(output.show(&PortsOf(endpoint))?)
}

pub async fn update(args: Update, client: &Client, output: &Output) -> Done {
    let spec = UpdateSpec {
        network: args.network,
        publish: args.publish,
    };
    let endpoint = client.update(&args.name, &spec).await?;
    Ok(output.show(&PortsOf(endpoint))?)
}

pub async fn port(args: Port, client: &Client, output: &Output) -> Done {
    Ok(output.show(&client.ports(args.name.as_deref()).await?)?)
}
