"""What generating text needs below the port, whatever the runtime: grammars that bind it, and reading it.

A runtime that writes text uses it so:

1. once per model, `detect_style(template)` (`tool_syntax`);
2. for each chat, `template_input(request, style)` (`prompting`); render the template with it; `finished_prompt(...)`;
3. `answer_form(request, style, thinking=...)` (`answers`), also for completions;
4. bind the answer to `form.language.after(delivered text).gbnf()`, where there is a language; keep the text of control
   tokens that are among `form.markers`; give the library no stop strings;
5. `AnswerReader(form)` (`reading`): `skip` the delivered text, `feed` each piece with its ids, stop where `stopped`,
   `finish` at the end and emit what it gives together with the `Done`, whose reason `reason(...)` tells.
"""
