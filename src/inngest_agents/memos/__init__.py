"""What the engine keeps of a step, its memo: values, answers of models and errors as JSON, and the same made of that.

`memo_head` is what each memo begins with. `codec` stores what users' code returns (with `sameness`, `local_classes` and
`kept_values` for what is no JSON), `response_codec` what models answer (with `item_form` and `usage_form`), and
`stored_errors` what was raised (with `stored_responses` and `validation_errors`). The record of a step's usage is in
`inngest_agents.stats`.
"""
