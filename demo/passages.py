"""What is embedded, and what is asked about it."""

PASSAGES = [
    "Redis keeps its data in memory and answers most commands in less than a millisecond.",
    "Milvus is a database of vectors: it finds the vectors that are nearest to a given one.",
    "An event loop runs one task at a time; a task that computes for long makes all others wait.",
    "The Eiffel Tower in Paris is 330 metres high and was finished in 1889.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "The Amazon carries more water than any other river on Earth.",
    "Penguins live in the southern hemisphere and cannot fly.",
    "Mount Everest is 8,849 metres high, the highest mountain above the sea.",
    "Honey does not spoil, because it holds too little water for bacteria.",
    "The moon takes 27 days to go round the Earth.",
    "A violin has four strings, tuned in fifths.",
    "Tea comes from the leaves of the plant Camellia sinensis.",
    "The first marathon of the modern Olympic Games was run in Athens in 1896.",
    "Copper conducts electricity well, which is why most cables are made of it.",
    "Bees tell each other with a dance where they have found flowers.",
    "The Great Barrier Reef lies off the coast of Australia.",
]
QUESTIONS = [
    "Why does honey not spoil?",
    "How do bees tell each other where flowers are?",
    "How high is the Eiffel Tower?",
]
