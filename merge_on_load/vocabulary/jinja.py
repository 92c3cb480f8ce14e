"""Whether a chat template is Jinja2 as transformers has it. Importing this imports jinja2."""

from jinja2 import Environment, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser


class _Generation(Extension):
    """`{% generation %}` ... `{% endgeneration %}`: what the assistant says, for training."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Its body: nothing is rendered here."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def syntax_error(template: str) -> str | None:
    """What is wrong with it, and in which line; None if nothing is. Nothing is rendered."""
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[_Generation, loopcontrols],
    )
    environment.filters["tojson"] = str
    try:
        environment.from_string(template)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    return None
