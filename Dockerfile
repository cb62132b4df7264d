# What `make` sets up, without the tests' packages. See docs/environments.md.
FROM python:3.11-slim-bookworm

# git: a checkout's commit goes into every file. make: the checkout's own commands.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /model-metrology

# Before the code, so that a change of it installs nothing again.
COPY pyproject.toml README.md LICENSE ./
RUN mkdir model_metrology \
    && touch model_metrology/__init__.py \
    && pip install --no-cache-dir --editable '.[workflow,language,embeddings]'

COPY . .

# For `docker run --user`: an id that the image does not know has neither.
ENV HOME=/tmp USER=model-metrology

ENTRYPOINT ["snakemake"]
CMD ["--cores", "2"]
