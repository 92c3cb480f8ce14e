"""Questions about a small shop database, each answered by one SQL query."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.demo.tasks.problem import Problem, same_text
from examples.demo.tasks.words import CITIES

NAME = "sql"
DESCRIPTION = "Writes the SQL query that answers a question about a small shop database."
is_right = same_text

REQUESTS = (
    "Write a SQL query: {question}",
    "Write a SQL query that answers this question: {question}",
    "Turn this question into SQL: {question}",
    "SQL: {question}",
    "Give me the SQL for this: {question}",
    "Which SQL query answers this? {question}",
    "Query the shop database: {question}",
    "Write SQL for the shop database. {question}",
    "I need a database query. {question}",
    "Using the shop tables, write a SQL statement: {question}",
    "Generate a SELECT statement: {question}",
    "Please write the SQL. {question}",
    "Convert to SQL: {question}",
    "What SQL would answer the question: {question}",
    "{question} Answer with a SQL query.",
    "{question} Write it in SQL.",
)


@dataclass(frozen=True)
class Table:
    """One table of the schema: its text columns with their values, its numbers with a range."""

    name: str
    row: str
    labels: dict[str, tuple[str, ...]]
    numbers: dict[str, range]


SCHEMA = (
    Table("customers", "customer", {"city": CITIES}, {"age": range(18, 90)}),
    Table(
        "orders",
        "order",
        {"status": ("open", "paid", "shipped", "cancelled", "returned")},
        {"total": range(10, 990, 10), "discount": range(2, 50)},
    ),
    Table(
        "products",
        "product",
        {"category": ("toys", "books", "garden", "music", "sport", "shoes", "kitchen")},
        {"price": range(5, 200), "stock": range(10, 900, 10)},
    ),
    Table(
        "employees",
        "employee",
        {"department": ("sales", "finance", "support", "marketing", "legal", "research")},
        {"salary": range(2000, 9000, 100), "bonus": range(100, 990, 10)},
    ),
)
COMPARISONS = {
    ">": ("above", "over", "greater than", "more than"),
    "<": ("below", "under", "less than", "lower than"),
}
AGGREGATES = {
    "AVG": ("average", "mean"),
    "MAX": ("highest", "maximum"),
    "MIN": ("lowest", "minimum"),
    "SUM": ("total sum of the", "summed up"),
}
ORDERS = {"DESC": ("highest", "largest"), "ASC": ("lowest", "smallest")}


def generate(rng: random.Random) -> Problem:
    """Draw a question; its query has one canonical spelling and ends with a semicolon."""
    question, query = rng.choice(KINDS)(rng, rng.choice(SCHEMA))
    return Problem(rng.choice(REQUESTS).format(question=question), f"SELECT {query};")


def _label(rng: random.Random, table: Table) -> tuple[str, str]:
    column = rng.choice(tuple(table.labels))
    value = rng.choice(table.labels[column])
    words = rng.choice(("with {} {}", "whose {} is {}", "where the {} is {}"))
    return words.format(column, value), f"{column} = '{value}'"


def _bound(rng: random.Random, table: Table) -> tuple[str, str]:
    column = rng.choice(tuple(table.numbers))
    value = rng.choice(table.numbers[column])
    sign = rng.choice(tuple(COMPARISONS))
    words = rng.choice(("with a {} {} {}", "whose {} is {} {}"))
    return words.format(column, rng.choice(COMPARISONS[sign]), value), f"{column} {sign} {value}"


def _condition(rng: random.Random, table: Table) -> tuple[str, str]:
    return rng.choice((_label, _bound))(rng, table)


def _count(rng: random.Random, table: Table) -> tuple[str, str]:
    words, where = _condition(rng, table)
    form = rng.choice(
        ("How many {} are there {}?", "Count the {} {}.", "What is the number of {} {}?")
    )
    return form.format(table.name, words), f"COUNT(*) FROM {table.name} WHERE {where}"


def _list(rng: random.Random, table: Table) -> tuple[str, str]:
    words, where = _condition(rng, table)
    form = rng.choice(("List all {} {}.", "Show the {} {}.", "Find every {row} {words}."))
    question = form.format(table.name, words, row=table.row, words=words)
    return question, f"* FROM {table.name} WHERE {where}"


def _ids(rng: random.Random, table: Table) -> tuple[str, str]:
    words, where = _label(rng, table)
    bound, also = _bound(rng, table)
    form = rng.choice(("List the ids of {} {} and {}.", "Which ids belong to {} {} and {}?"))
    return form.format(table.name, words, bound), f"id FROM {table.name} WHERE {where} AND {also}"


def _aggregate(rng: random.Random, table: Table) -> tuple[str, str]:
    function = rng.choice(tuple(AGGREGATES))
    column = rng.choice(tuple(table.numbers))
    words, where = _label(rng, table)
    form = rng.choice(("What is the {} {} of {} {}?", "Find the {} {} of all {} {}."))
    question = form.format(rng.choice(AGGREGATES[function]), column, table.name, words)
    return question, f"{function}({column}) FROM {table.name} WHERE {where}"


def _group(rng: random.Random, table: Table) -> tuple[str, str]:
    column = rng.choice(tuple(table.labels))
    number = rng.choice(tuple(table.numbers))
    function = rng.choice(("AVG", "MAX", "MIN"))
    form = rng.choice(("Show the {} {} of {} per {}.", "What is the {} {} of {} for each {}?"))
    question = form.format(rng.choice(AGGREGATES[function]), number, table.name, column)
    return question, f"{column}, {function}({number}) FROM {table.name} GROUP BY {column}"


def _top(rng: random.Random, table: Table) -> tuple[str, str]:
    order = rng.choice(tuple(ORDERS))
    column = rng.choice(tuple(table.numbers))
    limit = rng.randint(2, 20)
    form = rng.choice(("Show the {} {} with the {} {}.", "Which {} {} have the {} {}?"))
    question = form.format(limit, table.name, rng.choice(ORDERS[order]), column)
    return question, f"* FROM {table.name} ORDER BY {column} {order} LIMIT {limit}"


def _join(rng: random.Random, _: Table) -> tuple[str, str]:
    column = rng.choice(("total", "status", "discount"))
    city = rng.choice(CITIES)
    form = rng.choice(
        ("Show the {} of orders by customers from {}.", "List the order {} of customers in {}.")
    )
    query = (
        f"orders.{column} FROM orders JOIN customers ON orders.customer_id = customers.id "
        f"WHERE customers.city = '{city}'"
    )
    return form.format(column, city), query


KINDS: tuple[Callable[[random.Random, Table], tuple[str, str]], ...] = (
    _count,
    _list,
    _ids,
    _aggregate,
    _group,
    _top,
    _join,
)
