"""Names and places that several tasks share."""

FIRST_NAMES = (
    "Anna", "Ben", "Carla", "David", "Elena", "Frank", "Grace", "Hugo", "Irene", "Jonas",
    "Karen", "Leo", "Maria", "Nina", "Omar", "Paula", "Quinn", "Rosa", "Sam", "Tara",
    "Victor", "Wendy", "Yusuf", "Zoe", "Lucas", "Emma", "Oliver", "Sofia", "Daniel", "Laura",
)  # fmt: skip

LAST_NAMES = (
    "Lopez", "Smith", "Keller", "Rossi", "Brown", "Novak", "Garcia", "Jensen", "Patel",
    "Kim", "Meyer", "Dubois", "Walker", "Silva", "Cohen", "Ivanov", "Tanaka", "Okafor",
    "Murphy", "Larsen", "Fischer", "Moreau", "Santos", "Clark",
)  # fmt: skip

CITIES = (
    "Madrid", "Paris", "Berlin", "Rome", "London", "Lisbon", "Vienna", "Oslo", "Dublin",
    "Prague", "Athens", "Chicago", "Boston", "Toronto", "Tokyo", "Cairo", "Lima", "Zurich",
    "Warsaw", "Denver",
)  # fmt: skip
