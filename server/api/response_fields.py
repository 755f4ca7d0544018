"""Every field a request of the Responses API may carry, and what becomes of it."""

from __future__ import annotations

from server.api.field_table import FieldTable, Origin, honoured, no_op, refused

RESPONSE_FIELDS = FieldTable(
    "response-fields",
    "a response",
    "POST /v1/responses",
    (
        *honoured(
            Origin.OPENAI,
            input="a text, or items in order: messages, pictures, calls and their outputs, in every shape that answers have",
            model="must name the model served here",
            instructions="stands before everything else, and is not handed on by previous_response_id",
            tools="image_generation, with how pictures are drawn, or functions the model may call, where it was taught to",
            tool_choice="none, auto, required, image_generation, one function, or some allowed ones; what must come is forced",
            parallel_tool_calls="false allows one call in an answer at most",
            max_tool_calls=(
                "most pictures of the answer, after which it goes on without; where nobody said how many, one that wants too many is "
                "incomplete, for the reason max_output_tokens: strict clients know no better one"
            ),
            text="format: text, json_object (any JSON object) or json_schema (JSON that fits the schema); verbosity has no effect",
            temperature="0 takes the likeliest token, higher draws more evenly, up to 2; 0 when left out",
            top_p="draw among the likeliest tokens that together have this probability; 0 takes the likeliest",
            max_output_tokens="most text tokens of the answer, thoughts included",
            include="message.output_text.logprobs adds the log-probability of each text token",
            top_logprobs="how many of the likeliest tokens are shown for each token, 0 to 20",
            metadata="up to 16 strings that come back with the answer",
            previous_response_id="the answer goes on from that response: its input and output are read first",
            store="false: the response cannot be fetched or continued later; true when left out",
            stream="send the answer as server-sent events while it is made",
            background="answer at once with the id; the work goes on, and is fetched, streamed or cancelled by it",
            user="older name of safety_identifier",
            safety_identifier="whose request this is: no two users share cached prompts; without keys, they share the machine fairly",
        ),
        *honoured(
            Origin.VLLM,
            top_k="draw among this many likeliest tokens; 0 and -1 are off",
            min_p="draw among tokens at least this fraction as likely as the likeliest",
            presence_penalty="lowers tokens that the answer already holds; negative raises them",
            frequency_penalty="the same for each time the answer holds them",
            repetition_penalty="divides the logits of tokens that the answer already holds; 1 is off",
            structured_outputs="what the text must be: one of choice, a match of regex, or JSON that fits the schema json",
        ),
        *honoured(
            Origin.PLAIT,
            seed="the same seed gives the same answer, whoever else is served",
            think="the model first plans in words, which come as a reasoning item",
        ),
        *no_op(
            stream_options="events are not padded",
            truncation="the context is never shortened: 'disabled' is accepted",
            reasoning="effort cannot be measured out and plans are shown whole; think lets the model plan first",
            service_tier="there is one tier: 'auto' and 'default' are accepted",
            prompt_cache_key="prompts are found in the cache by their content, whatever their key",
            prompt_cache_retention="prompts are cached while there is room, for every request alike",
            prompt_cache_options="prompts are cached while there is room, for every request alike",
        ),
        *refused(
            Origin.OPENAI,
            conversation="use previous_response_id, or send the items",
            prompt="there are no stored prompts; send the items",
            moderation="this server does not moderate",
            context_management="the context is not shortened; send what should be read",
            background_options="background work is done as soon as possible",
            access_programs="there are none here",
            image="pictures are drawn by the tool image_generation; put its options there",
        ),
        *refused(
            Origin.ELSEWHERE,
            modalities="use tools and tool_choice",
            stop="only chat completions end at a text; cut the answer there yourself",
            n="a response is one answer; ask again for another, with another seed",
        ),
    ),
)
