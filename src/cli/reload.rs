//! `chancery reload`: has the server read its files again at once, and says what came of it.

use super::Context;
use super::exit::{Done, Exit, Failure};
use super::screen::Paint;
use crate::proto::chancery::admin::v1 as pb;

pub(crate) async fn run(context: &Context) -> Done {
    let answer = context.admin().await?.reload(pb::ReloadRequest {}).await?.into_inner();
    context.screen.show(&answer, |answer| screen(answer, context.screen.paint))?;
    if answer.refused.is_empty() { Ok(()) } else { Err(Failure::said(Exit::Usage)) }
}

fn screen(answer: &pb::Reloaded, paint: Paint) -> String {
    let mut text = match answer.changed.as_slice() {
        [] => "Nothing else is in force than before.\n".to_owned(),
        changed => format!("{} {}\n", paint.good("In force now:"), changed.join(", ")),
    };
    for why in &answer.refused {
        text.push_str(&format!("{} {why}\n", paint.bad("Refused, the old one stays:")));
    }
    if !answer.needs_restart.is_empty() {
        text.push_str(&format!("{} {}\n", paint.warn("Waits for a restart:"), answer.needs_restart.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::screen::golden;

    #[test]
    fn what_came_of_it_is_said() {
        let nothing = pb::Reloaded::default();
        let all = pb::Reloaded {
            changed: vec!["policy".into(), "configuration".into()],
            refused: vec![],
            needs_restart: vec!["http.listen".into()],
        };
        let refused =
            "1 mistake in policy.toml\n  line 3  rule 1 match.gruop  unknown key; did you mean rule 1 match.group?";
        let refused = pb::Reloaded { refused: vec![refused.into()], ..pb::Reloaded::default() };
        golden::check("reload.txt", &[nothing, all, refused].map(|answer| screen(&answer, Paint::PLAIN)).join("\n"));
    }
}
